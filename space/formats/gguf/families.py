"""Which architecture of llama.cpp holds a subnet, and in what equal form; what it takes for granted of a family.

Two architectures of llama.cpp that fit have sizes by layer. `deci` is a Llama, and with biases and rotary pairs in its
order a Qwen 2 as well. `openelm` is a Qwen 3 whose head is tied and whose layers all have attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from space.candidate import Candidate, LayerShape
from space.errors import ShapeError, UserError
from space.formats.llama_arithmetic import longest_context, require_llama_arithmetic
from space.spec import ModelSpec
from space.types import BLOCK

GEMMA = "gemma3_text"


@dataclass(frozen=True)
class GGUFFamily:
    """How llama.cpp holds a family.

    Attributes:
        equal: Its architecture for layers of one shape.
        unequal: Its architecture for layers of any shape, or None.
        narrow: Whether the former may have query heads that together are narrower than the residual stream.
        holes: Whether the latter may have layers without attention behind the first.
        rotary: Types of rotary embedding that both have.
    """

    equal: str
    unequal: str | None
    narrow: bool = True
    holes: bool = True
    rotary: tuple[str, ...] = ("default", "linear")


_LLAMA = GGUFFamily("llama", "deci", rotary=("default", "linear", "llama3"))
FAMILIES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": GGUFFamily("qwen2", "deci", narrow=False),
    "qwen3": GGUFFamily("qwen3", "openelm", holes=False),
    GEMMA: GGUFFamily("gemma3", None, holes=False),
}


def held_shapes(shapes: Sequence[LayerShape], spec: ModelSpec) -> list[LayerShape]:
    """The shapes to write for those of the layers that are left, so that llama.cpp computes the same.

    It does not load a model whose first layer has no attention; and it skips a layer that has attention but no MLP
    altogether, and says nothing. So the first layer gets one KV group of zeros, as all do where the architecture wants
    it, and an absent MLP 32 channels of zeros.
    """
    family = _family(spec)
    held = [shape if shape.mlp_channels else replace(shape, mlp_channels=BLOCK) for shape in shapes]
    return [
        shape if shape.query_heads or (index and family.holes) else replace(shape, query_heads=1, kv_heads=1)
        for index, shape in enumerate(held)
    ]


def architecture(shapes: Sequence[LayerShape], spec: ModelSpec) -> str:
    """The architecture that holds these shapes, as `held_shapes` gives them.

    Raises:
        UserError: llama.cpp has none for the family.
        ShapeError: It has none for layers that differ, or none for such a model.
    """
    family, shapes = _family(spec), [shape.unrounded for shape in shapes]
    widths = {shape.query_heads * spec.head_dim for shape in shapes}
    if len(set(shapes)) == 1 and (family.narrow or widths == {spec.hidden}):
        return family.equal
    if family.unequal is None:
        raise ShapeError(
            f"Expected a pick with equal layers for format=gguf, since llama.cpp's {family.equal} has one shape for "
            f"all layers, got one of a {spec.family} with {len(set(shapes))} shapes. format=hf writes it."
        )
    if family.unequal == "openelm" and (not spec.tied_embeddings or spec.qkv_bias or spec.o_bias):
        raise ShapeError(
            f"Expected a pick with equal layers for format=gguf, since llama.cpp holds layers of a {spec.family} that "
            "differ only where the head is the embedding and no projection has a bias, got one with "
            f"{len(set(shapes))} shapes. format=hf writes it."
        )
    return family.unequal


def require_arithmetic(config: Any, spec: ModelSpec, candidate: Candidate) -> None:
    """Refuses a model that llama.cpp computes otherwise.

    Args:
        config: The dense model's transformers config.
        spec: The dense model.
        candidate: What is left of it.

    Raises:
        UserError: Its activation, its rotary embedding or its attention is another.
        ShapeError: The layers that are left have no period of full and sliding attention.
    """
    family = _family(spec)
    if spec.family != GEMMA:
        require_llama_arithmetic(config, "gguf", family.rotary)
        return
    full, sliding = (config.rope_parameters[f"{kind}_attention"] for kind in ("full", "sliding"))
    wrong = {
        "the activation gelu_pytorch_tanh": config.hidden_activation != "gelu_pytorch_tanh",
        "no softcapping": config.final_logit_softcapping is not None or config.attn_logit_softcapping is not None,
        "attention to earlier tokens alone": bool(getattr(config, "use_bidirectional_attention", False)),
        f"a rotary embedding of type {' or '.join(family.rotary)}": full["rope_type"] not in family.rotary,
        "an unscaled rotary embedding of sliding attention": sliding["rope_type"] != "default",
    }
    if any(wrong.values()):
        wanted = ", ".join(what for what, is_wrong in wrong.items() if is_wrong)
        raise UserError(
            f"Expected {wanted} for format=gguf, as llama.cpp's {family.equal} has it. Export it with format=hf."
        )
    kinds = [config.layer_types[index] for index in candidate.kept]
    if sliding_period(kinds) is None:
        raise ShapeError(
            "Expected a pick for format=gguf whose layers attend to a sliding window but for every n-th, as llama.cpp "
            f"has a {spec.family}, got one with full attention in layers "
            f"{[place for place, kind in enumerate(kinds) if kind == 'full_attention']} of {len(kinds)}. format=hf "
            "writes it."
        )


def sliding_period(kinds: Sequence[str]) -> int | None:
    """The n of which every n-th layer has full attention and the others a sliding window, None where there is none.

    Without a layer that has a sliding window there is none: llama.cpp does not run such a model.
    """
    full = [kind == "full_attention" for kind in kinds]
    periods = (n for n in range(2, len(full) + 2) if full == [place % n == n - 1 for place in range(len(full))])
    return next(periods, None)


def context_length(config: Any, spec: ModelSpec) -> int:
    """Tokens up to which the file computes what the model does."""
    return int(config.max_position_embeddings) if spec.family == GEMMA else longest_context(config)


def _family(spec: ModelSpec) -> GGUFFamily:
    if spec.family not in FAMILIES:
        raise UserError(
            f"Expected a model of one of the families {', '.join(FAMILIES)} for format=gguf, got {spec.family}. "
            "Export it with format=hf."
        )
    return FAMILIES[spec.family]
