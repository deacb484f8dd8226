"""Rows of encoders: of text with layers of BERT's kinds, and of images with those of ViT's."""

from __future__ import annotations

from dataclasses import replace

from space.models.block_layout import BlockLayout, Projection
from space.models.layout import Architecture, SizeNames, StackNames, StockClasses
from space.models.llama_blocks import ATTENTION, MLP

_ENCODING = ("embeddings", "text_classification", "token_classification", "masked_lm")


def _encoding(name: str, layer: str) -> StockClasses:
    """The stock classes of a family of encoders."""
    heads = (f"{name}For{each}" for each in ("SequenceClassification", "TokenClassification", "MaskedLM"))
    return StockClasses(f"{name}Config", layer, f"{name}Model", None, *heads)


def _post_norm_encoder(
    module: str, name: str, head: str, *, stack: str | None = None, behind_padding: bool = False
) -> Architecture:
    """A family with the layers of BERT, whose blocks add to the residual stream themselves, and norm the sum."""
    inputs = tuple(Projection(f"self.{part}", (part,)) for part in ("query", "key", "value"))
    norm = "output.LayerNorm"
    return Architecture(
        module,
        _encoding(name, f"{name}Layer"),
        BlockLayout("attention", inputs, "output.dense", after=f"attention.{norm}", adds=True),
        BlockLayout(
            "",
            (Projection("intermediate.dense", ("up",)),),
            "output.dense",
            after=norm,
            adds=True,
            parts=("intermediate", "output"),
        ),
        stack=StackNames(
            "encoder.layer",
            None,
            "embeddings.word_embeddings",
            "embeddings.position_embeddings",
            stack or module,
            entry="embeddings",
            behind_padding=behind_padding,
        ),
        sizes=SizeNames(kv_heads=None),
        head=head,
        heads_fill=True,
        tasks=_ENCODING,
    )


def _vision(module: str, name: str, *, stack: str | None = None) -> Architecture:
    """A family with the layers of ViT."""
    inputs = tuple(Projection(f"{part[0]}_proj", (part,)) for part in ("query", "key", "value"))
    return Architecture(
        module,
        StockClasses(f"{name}Config", f"{name}Layer", f"{name}Model", None, f"{name}ForImageClassification"),
        BlockLayout("attention", inputs, "o_proj", before="layernorm_before"),
        BlockLayout("mlp", (Projection("fc1", ("up",)),), "fc2", before="layernorm_after"),
        stack=StackNames(
            "layers",
            "layernorm",
            "embeddings.patch_embeddings",
            "embeddings.position_embeddings",
            stack or module,
            entry="embeddings",
        ),
        sizes=SizeNames(kv_heads=None),
        numbered=False,
        tasks=("image_classification", "image_features"),
        transformers=(5, 19),
    )


def _dino(vision: Architecture, *, registers: str | None = None) -> Architecture:
    """DINOv2, of which what each block adds is scaled, and an MLP's width is a multiple of the stream's."""
    attention, mlp = vision.blocks.values()
    return replace(
        vision,
        attention=replace(attention, before="norm1", after="layer_scale1", scaled=True),
        mlp=replace(mlp, before="norm2", after="layer_scale2", scaled=True),
        stack=vision.stack._replace(layers="encoder.layer", registers=registers),
        sizes=vision.sizes._replace(ratio="mlp_ratio"),
        when=(("use_swiglu_ffn", False),),  # else of widths that its configuration cannot say
        any_size=True,
    )


ENCODERS: dict[str, Architecture] = {
    "bert": _post_norm_encoder("bert", "Bert", "cls.predictions.decoder"),
    "roberta": _post_norm_encoder("roberta", "Roberta", "lm_head.decoder", behind_padding=True),
    "xlm-roberta": _post_norm_encoder(
        "xlm_roberta", "XLMRoberta", "lm_head.decoder", stack="roberta", behind_padding=True
    ),
    "camembert": _post_norm_encoder("camembert", "Camembert", "lm_head.decoder", stack="roberta", behind_padding=True),
    "ernie": _post_norm_encoder("ernie", "Ernie", "cls.predictions.decoder"),
    "distilbert": Architecture(
        "distilbert",
        _encoding("DistilBert", "TransformerBlock"),
        BlockLayout(
            "attention",
            tuple(Projection(f"{part[0]}_lin", (part,)) for part in ("query", "key", "value")),
            "out_lin",
            after="sa_layer_norm",
            adds=True,
        ),
        BlockLayout("ffn", (Projection("lin1", ("up",)),), "lin2", after="output_layer_norm", adds=True),
        stack=StackNames(
            "transformer.layer",
            None,
            "embeddings.word_embeddings",
            "embeddings.position_embeddings",
            "distilbert",
            entry="embeddings",
        ),
        sizes=SizeNames("n_heads", None, "hidden_dim"),
        depth="n_layers",
        head="vocab_projector",
        heads_fill=True,
        numbered=False,
        tasks=_ENCODING,
        transformers=(5, 19),
    ),
    "modernbert": Architecture(
        "modernbert",
        _encoding("ModernBert", "ModernBertEncoderLayer"),
        BlockLayout("attn", (Projection("Wqkv", ("query", "key", "value")),), "Wo", before="attn_norm"),
        BlockLayout("mlp", (Projection("Wi", ("gate", "up")),), "Wo", before="mlp_norm"),
        stack=StackNames("layers", "final_norm", "embeddings.tok_embeddings", entry="embeddings"),
        sizes=SizeNames(kv_heads=None),
        head="decoder",
        heads_fill=True,
        tasks=_ENCODING,
        transformers=(5, 19),
    ),
    "eurobert": Architecture(
        "eurobert",
        _encoding("EuroBert", "EuroBertDecoderLayer"),
        ATTENTION,
        MLP,
        tasks=_ENCODING,
        transformers=(5, 19),
    ),
    "vit": _vision("vit", "ViT"),
    "deit": _vision("deit", "DeiT"),
    "vit_msn": _vision("vit_msn", "ViTMSN", stack="vit"),
    "ijepa": _vision("ijepa", "IJepa"),
    "dinov2": _dino(_vision("dinov2", "Dinov2")),
    "dinov2_with_registers": _dino(
        _vision("dinov2_with_registers", "Dinov2WithRegisters"), registers="num_register_tokens"
    ),
}
