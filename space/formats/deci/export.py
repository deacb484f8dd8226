"""A pruned Llama in NVIDIA's `block_configs` schema, which the DeciLM loaders (`nemotron-nas`) of some engines read.

None of these engines runs here, nor in the tests of this project. What is checked (`space.formats.deci.check`) is that
a reader with their loaders' rules finds every weight in the size that it wants, and gets the subnet's logits.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from torch import nn

from space.candidate import LayerShape
from space.errors import ShapeError, UserError
from space.formats.checkpoint import Subnet, checkpoint_parts, kept_shapes, write_checkpoint
from space.formats.child import answer_of
from space.formats.deci import check as deci_check
from space.formats.equal_forms import widened
from space.formats.llama_arithmetic import longest_context, require_llama_arithmetic
from space.formats.model_card import CHECKPOINT, Card, write_card
from space.formats.reference import Reference, reference_of
from space.formats.reveal import revealed_when_complete
from space.spec import ModelSpec

FAMILIES = ("llama", "mistral")
_CONFIG_FILE = "configuration_decilm.py"
_MULT_STEP = 256  # channels: an `ffn_mult` stands for a multiple of these
# Of the dense model's config, since blocks or the context say it.
_DROPPED = ("num_key_value_heads", "intermediate_size", "sliding_window", "layer_types")


@dataclass(frozen=True)
class Flavour:
    """What the loaders of some engines read.

    Attributes:
        engines: Their names.
        library: The first of them, as a hub knows it.
        use: Lines of Python that load a checkpoint there.
        serve: A command that serves it, but for the directory.
        rounded: Whether a width is an `ffn_mult` to them, hence a multiple of 256, all layers with attention have one
            number of KV groups, and no projection has a bias.
    """

    engines: str
    library: str
    use: str
    serve: str
    rounded: bool = False


_FLAVOURS = {
    "vllm": Flavour(
        engines="vLLM",
        library="vllm",
        use=f'from vllm import LLM\n\nmodel = LLM("{CHECKPOINT}", trust_remote_code=True)',
        serve="vllm serve {} --trust-remote-code",
    ),
    "ffn_mult": Flavour(
        engines="SGLang and TensorRT-LLM",
        library="sglang",
        use=f'from sglang import Engine\n\nmodel = Engine(model_path="{CHECKPOINT}", trust_remote_code=True)',
        serve="python -m sglang.launch_server --model-path {} --trust-remote-code",
        rounded=True,
    ),
}


@dataclass(frozen=True)
class DeciExport:
    """A finished checkpoint.

    Attributes:
        directory: Where it is.
        logits_difference: The reader's logits against the subnet's in float32, the largest difference as a fraction of
            the largest logit, since it sums in another order.
        added_parameters: Zeros that the schema made necessary.
        flavour: Which loaders read it.
    """

    directory: Path
    logits_difference: float
    added_parameters: int
    flavour: Flavour

    def remarks(self) -> list[str]:
        """What a person should know of it, in lines."""
        return [
            f"read back in a fresh process by the rules of the DeciLM loader of {self.flavour.engines}: logits within "
            f"{self.logits_difference:.1e} (relative) of the search's own subnet; no engine has run it",
            f"{self.added_parameters:,} zeros added where the schema has no word for a shape",
            f"exported; serve with: {self.flavour.serve.format(shlex.quote(str(self.directory)))}",
        ]


def check_deci(flavour: str, subnet: Subnet) -> None:
    """Refuses, before any work, what the schema cannot hold, in a flavour of `export_deci`.

    Raises:
        UserError: The family is another, or its arithmetic.
        ShapeError: No layer keeps attention, or no number of query heads fits all layers, or the flavour rounds widths.
    """
    spec = subnet.spec
    if spec.family not in FAMILIES:
        raise UserError(
            f"Expected a model of one of the families {', '.join(FAMILIES)} for format=deci, got {spec.family}. "
            "Export it with format=hf."
        )
    require_llama_arithmetic(subnet.config, "deci")
    kind, shapes = _FLAVOURS[flavour], kept_shapes(subnet.candidate)
    if kind.rounded and (spec.qkv_bias or spec.o_bias or spec.mlp_bias):
        raise UserError(
            f"Expected a model without biases for deci.flavour={flavour}, since {kind.engines} have none there. "
            "Export it with format=hf."
        )
    held_shapes(shapes, spec, kind.rounded)
    widths = sorted({shape.mlp_channels for shape in shapes if shape.mlp_channels % _MULT_STEP})
    if kind.rounded and widths:
        raise ShapeError(
            f"Expected a pick whose MLPs keep multiples of {_MULT_STEP} channels for deci.flavour={flavour}, since "
            f"{kind.engines} round up to these, got {', '.join(map(str, widths[:4]))}{' …' * (len(widths) > 4)}. "
            "A search with space.deploy=sglang has such picks alone; format=hf writes this one."
        )


def held_shapes(shapes: Sequence[LayerShape], spec: ModelSpec, same_groups: bool = False) -> list[LayerShape]:
    """The shapes to write for those of the layers that are left, so that the loader computes the same.

    The loader has one number of query heads for all layers, and a number of KV groups that divides it for each; and its
    first layer must have attention, since the residual stream starts there. Shapes that do not fit get query heads and
    KV groups of zeros. Of the possible numbers of query heads, the one with the fewest parameters is taken.

    Args:
        shapes: Of the layers that are left.
        spec: The dense model.
        same_groups: Whether the loader has one number of KV groups for all layers with attention.

    Raises:
        ShapeError: There is none.
    """
    smallest = LayerShape(1, 1, shapes[0].mlp_channels)
    full = [shapes[0] if shapes[0].query_heads else smallest, *shapes[1:]]
    if same_groups:
        attending = [shape for shape in full if shape.query_heads]
        most = max(shape.kv_heads for shape in attending)
        queries = most * max(shape.queries_per_group for shape in attending)
        full = [LayerShape(queries, most, shape.mlp_channels) if shape.query_heads else shape for shape in full]
    choices = []
    for heads in range(1, spec.query_heads + 1):
        groups = [_groups(shape, heads) if shape.query_heads else 0 for shape in full]
        if spec.hidden % heads == 0 and -1 not in groups:  # Llama's own config wants them to divide
            held = [
                LayerShape(heads if count else 0, count, shape.mlp_channels)
                for count, shape in zip(groups, full, strict=True)
            ]
            choices.append((sum(shape.query_heads + shape.kv_heads for shape in held), heads, held))
    if not choices:
        raise ShapeError(
            f"Expected a pick whose layers fit one number of query heads, which divides the hidden size {spec.hidden}, "
            f"got layers of {sorted({shape.query_heads for shape in shapes})}. format=hf writes it."
        )
    return min(choices)[2]


def _groups(shape: LayerShape, heads: int) -> int:
    """The fewest KV groups that hold a shape in a layer of so many query heads, -1 where none does."""
    for groups in range(shape.kv_heads, heads + 1):
        if heads % groups == 0 and heads // groups >= shape.queries_per_group:
            return groups
    return -1


def block_config(shape: LayerShape, hidden: int) -> dict[str, dict[str, Any]]:
    """A layer in the schema's words.

    A width is said as `ffn_mult`, which every loader of the schema reads, where that can say it: w channels are
    int(2 · ffn_mult · hidden / 3) rounded up to a multiple of 256. Other widths are `intermediate_size`, which vLLM
    reads where there is no `ffn_mult`.
    """
    attention: dict[str, Any] = {"n_heads_in_group": None, "no_op": True, "replace_with_linear": False}
    ffn: dict[str, Any] = {"no_op": not shape.mlp_channels, "replace_with_linear": False}
    if shape.query_heads:
        attention |= {"n_heads_in_group": shape.queries_per_group, "no_op": False}
    if shape.mlp_channels % _MULT_STEP:
        ffn["intermediate_size"] = shape.mlp_channels
    else:
        ffn["ffn_mult"] = 3 * shape.mlp_channels / (2 * hidden) if shape.mlp_channels else None
    return {"attention": attention, "ffn": ffn}


def export_deci(
    flavour: str,
    model: nn.Module,
    subnet: Subnet,
    out_dir: Path,
    *,
    card: Card,
    tolerance: float = 1e-4,
) -> DeciExport:
    """Writes, verifies and only then reveals a checkpoint; arguments as of `space.formats.hf.export.export_checkpoint`.

    The flavour is one of `space.formats.requirements.DECI_FLAVOURS`.

    Raises:
        ShapeError: As `check_deci`.
        UserError: As `check_deci`; `out_dir` is taken or cannot be written; or the reader finds other weights than it
            wants, or computes something else.
    """
    spec, candidate = subnet.spec, subnet.candidate
    parts = checkpoint_parts(model, subnet.config, candidate)
    check_deci(flavour, subnet)
    kind = _FLAVOURS[flavour]
    written = widened(parts, held_shapes(parts.shapes, spec, kind.rounded), spec)
    added = written.elements - parts.elements
    with revealed_when_complete(out_dir) as directory:
        text = resources.files("space.formats.deci").joinpath(_CONFIG_FILE).read_text(encoding="utf-8")
        (directory / _CONFIG_FILE).write_text(text, encoding="utf-8")
        values = _config(subnet.config, written.shapes, spec)
        write_checkpoint(directory, written.state, values, subnet.tokenizer, subnet.generation_config)
        difference = _read_back(directory, kind.rounded, reference_of(model, spec), tolerance)
        checks = {"largest difference of logits, relative": f"{difference:.2g}", "zeros added": added}
        write_card(
            directory,
            spec,
            candidate,
            {**card, f"Read back by the rules of {kind.engines}, in float32 (which did not run)": checks},
            kind=f"It is written in NVIDIA's `block_configs` schema, for the DeciLM loader of {kind.engines}.",
            library=kind.library,
            use=kind.use,
            serve=kind.serve.format(CHECKPOINT),
        )
    return DeciExport(out_dir, difference, added, kind)


def _config(dense_config: Any, held: Sequence[LayerShape], spec: ModelSpec) -> dict[str, Any]:
    """The contents of config.json."""
    values = {key: value for key, value in dense_config.to_diff_dict().items() if key not in _DROPPED}
    return values | {
        "model_type": "nemotron-nas",
        "architectures": ["DeciLMForCausalLM"],
        "auto_map": {"AutoConfig": f"{_CONFIG_FILE.removesuffix('.py')}.DeciLMConfig"},
        "num_hidden_layers": len(held),
        "num_attention_heads": max(shape.query_heads for shape in held),
        "head_dim": spec.head_dim,
        "max_position_embeddings": longest_context(dense_config),
        "block_configs": [block_config(shape, spec.hidden) for shape in held],
    }


def _read_back(directory: Path, rounded: bool, reference: Reference, tolerance: float) -> float:
    """Reads the checkpoint in a fresh process; the largest difference of logits, relative."""
    answer = answer_of(
        Path(deci_check.__file__),
        {"directory": str(directory.resolve()), "rounded": rounded},
        reference.tensors(),
        failure="The exported checkpoint could not be read back",
    )
    difference = float(answer["logits_difference"])
    if not difference <= tolerance:
        raise UserError(
            f"The exported checkpoint failed its check: expected logits within {tolerance:g} (relative, float32) of "
            f"the searched model's, but they differ by {difference:.3g}. Export another point, or report this one "
            "with its key."
        )
    return difference
