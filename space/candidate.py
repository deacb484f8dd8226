"""LayerShape and Candidate: one pruned architecture as a value, free of torch.

A further choice of a block (bits, experts) is a field of `LayerShape` with a default and a name in a row of `KINDS`; a
further kind of block is a row of its own. A further choice of the whole model (vocabulary, hidden width) is a field of
`Candidate` with a default. Designs that leave such fields at their defaults keep their keys and their JSON form.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property
from typing import Any

from space.spec import ModelSpec
from space.types import GGUF_TYPES

Option = tuple[int, ...]

# The fields that a block of each kind has in its layer's shape. Where the first of them is 0, the block is gone; those
# with defaults stand behind the others, the type of its matrices, `<kind>_type`, first.
KINDS: dict[str, tuple[str, ...]] = {
    "attention": ("query_heads", "kv_heads", "attention_type"),
    "mlp": ("mlp_channels", "mlp_type", "expert_channels"),
}

# The kinds of genes of the whole model.
VOCABULARY, EMBEDDING, HEAD = "vocabulary", "embedding", "head"
WHOLE = (VOCABULARY, EMBEDDING, HEAD)


@dataclass(frozen=True, order=True)
class LayerShape:
    """What one decoder layer keeps.

    Attributes:
        query_heads: Query heads kept; 0 together with `kv_heads` means that the attention block is gone.
        kv_heads: Key-value groups kept; divides `query_heads`. With more query heads a group than the dense model has,
            all query heads are kept and groups are merged; else the groups and heads beyond these are dropped.
        mlp_channels: Intermediate channels kept, or of a mixture of experts these; 0 means that the MLP block is gone.
        attention_type: The type of the attention block's matrices, a row of `space.types.GGUF_TYPES`; 0 where it is
            gone.
        mlp_type: That of the MLP block's.
        expert_channels: Of a mixture, the intermediate channels that each expert keeps; 0 for all of them.
    """

    query_heads: int
    kv_heads: int
    mlp_channels: int
    attention_type: int = 0
    mlp_type: int = 0
    expert_channels: int = 0

    def __post_init__(self) -> None:
        if min(self.query_heads, self.kv_heads, self.mlp_channels, self.expert_channels) < 0:
            raise ValueError(f"LayerShape: expected counts of at least 0, got {self}.")
        if self.expert_channels and not self.mlp_channels:
            raise ValueError(f"LayerShape: expected no channels of experts where these are gone, got {self}.")
        for size, kind in ((self.query_heads, self.attention_type), (self.mlp_channels, self.mlp_type)):
            _require_type(kind, "LayerShape")
            if kind and not size:
                raise ValueError(f"LayerShape: expected no type of a block that is gone, got {self}.")
        if (self.query_heads == 0) != (self.kv_heads == 0):
            raise ValueError(
                f"LayerShape: query_heads and kv_heads are 0 together or not at all, "
                f"got {self.query_heads} and {self.kv_heads}."
            )
        if self.kv_heads and self.query_heads % self.kv_heads:
            raise ValueError(
                f"LayerShape: expected query_heads to be a multiple of kv_heads, "
                f"got {self.query_heads} and {self.kv_heads}."
            )

    @classmethod
    def of(cls, **options: Option) -> LayerShape:
        """The layer whose blocks have these options, by kind of block; blocks of other kinds are gone.

        Raises:
            ValueError: An option does not have one value for each field of its kind, those with defaults apart.
        """
        values = {name: 0 for name, default in _defaults(cls).items() if default is MISSING}
        for kind, option in options.items():
            least, most = required(kind), len(KINDS[kind])
            if not least <= len(option) <= most:
                raise ValueError(f"LayerShape: expected {least} to {most} values of {kind}, got {option}.")
            values |= zip(KINDS[kind], option, strict=False)
        return cls(**values)

    def option(self, kind: str) -> Option:
        """The values of the fields of a block: `(query_heads, kv_heads)` of `attention`, `(mlp_channels,)` of `mlp`.

        The type of its matrices, and what has a default besides, stand behind them as far as one is not 0.
        """
        return shortened(KINDS[kind], [getattr(self, name) for name in KINDS[kind]])

    def keeps(self, kind: str) -> bool:
        """Whether anything is left of the layer's block of a kind."""
        return bool(getattr(self, KINDS[kind][0]))

    def type_of(self, kind: str) -> int:
        """The type of the matrices of the layer's block of a kind."""
        return int(getattr(self, _type_of(kind)))

    @property
    def unrounded(self) -> LayerShape:
        """The same with its matrices as they come."""
        return replace(self, attention_type=0, mlp_type=0) if self.attention_type or self.mlp_type else self

    @property
    def gone(self) -> bool:
        """Whether nothing of the layer is left."""
        return not any(self.keeps(kind) for kind in KINDS)

    @property
    def queries_per_group(self) -> int:
        """Query heads kept in each key-value group, 0 without attention."""
        return self.query_heads // self.kv_heads if self.kv_heads else 0

    @cached_property
    def row(self) -> tuple[int, ...]:
        """The fields in their order, without those at the end that have their default values."""
        names = [*_defaults(type(self))]
        return shortened(names, [getattr(self, name) for name in names], type(self))


def shortened(names: Sequence[str], values: Sequence[int], form: type[LayerShape] | None = None) -> tuple[int, ...]:
    """Values of fields of a layer's shape, without those at the end that have their default values."""
    defaults, kept = _defaults(form) if form else _SHAPE_DEFAULTS, [*values]
    while kept and kept[-1] == defaults[names[len(kept) - 1]]:
        kept.pop()
    return tuple(kept)


def required(kind: str) -> int:
    """How many values an option of a block of a kind has at least: those of its fields without a default."""
    return sum(_SHAPE_DEFAULTS[name] is MISSING for name in KINDS[kind])


def widths(kind: str, option: Option) -> Option:
    """An option of a block of a kind without the type of its matrices."""
    names = KINDS[kind]
    return shortened(names, [0 if name == _type_of(kind) else n for name, n in zip(names, option, strict=False)])


def _type_of(kind: str) -> str:
    return f"{kind}_type"


def _require_type(number: int, what: str) -> None:
    if type(number) is not int or not 0 <= number < len(GGUF_TYPES):
        raise ValueError(f"{what}: expected a type from 0 to {len(GGUF_TYPES) - 1}, got {number!r}.")


def _defaults(form: type[LayerShape] | type[Candidate]) -> dict[str, Any]:
    """The default value of every field in their order; `MISSING`, which no value equals, of those without one."""
    return {field.name: field.default for field in fields(form)}


_SHAPE_DEFAULTS = _defaults(LayerShape)
SHAPE = tuple(_SHAPE_DEFAULTS)  # the fields of a layer's shape


@dataclass(frozen=True, order=True)
class Candidate:
    """A pruned architecture: the shape of every layer of the dense model, in order.

    Candidates are ordered by their layers, the first layer first, so that sorting puts those together that begin alike.

    Attributes:
        layers: What each layer keeps.
        vocabulary: Tokens kept; 0 for all. Which these are is a matter of the run, see `space.vocabulary.levels`.
        embedding_type: The type of the embedding matrix, a row of `space.types.GGUF_TYPES`; of the LM head too where
            the two are one.
        head_type: That of an LM head of its own.
    """

    layers: tuple[LayerShape, ...]
    vocabulary: int = 0
    embedding_type: int = 0
    head_type: int = 0

    def __post_init__(self) -> None:
        if type(self.vocabulary) is not int or self.vocabulary < 0:
            raise ValueError(f"Candidate: expected a vocabulary of at least 0 tokens, got {self.vocabulary!r}.")
        for number in (self.embedding_type, self.head_type):
            _require_type(number, "Candidate")

    @classmethod
    def dense(cls, spec: ModelSpec) -> Candidate:
        """The candidate that keeps everything."""
        heads, groups = spec.query_heads, spec.kv_heads
        return cls(tuple(LayerShape(heads, groups, spec.whole_mlp(layer)) for layer in range(spec.layers)))

    @property
    def blocks(self) -> Candidate:
        """The same layers with the whole vocabulary: what their weights, and all that is solved and trained, go by."""
        return replace(self, vocabulary=0) if self.vocabulary else self

    @property
    def kept(self) -> tuple[int, ...]:
        """The numbers of the layers of which anything is left."""
        return tuple(index for index, shape in enumerate(self.layers) if not shape.gone)

    @cached_property
    def unrounded(self) -> Candidate:
        """The same with all matrices as they come: what is solved and trained before anything is rounded."""
        other = Candidate(tuple(shape.unrounded for shape in self.layers), self.vocabulary)
        return self if other == self else other

    @property
    def is_rounded(self) -> bool:
        """Whether any matrix has a type of its own."""
        return self.unrounded is not self

    def logits_type(self, *, tied: bool) -> int:
        """The type of the matrix that gives the logits, by whether that is the embedding."""
        return self.embedding_type if tied else self.head_type

    @cached_property
    def key(self) -> str:
        """Short name of the architecture, equal on every machine; led by a letter, so it never reads as a number.

        It is a digest of the JSON form; of that of the layers alone, where nothing of the whole model is chosen.
        """
        form = self.to_json()
        text = json.dumps(form["layers"] if len(form) == 1 else form, separators=(",", ":"))
        return "s" + hashlib.sha256(text.encode()).hexdigest()[:11]

    def to_json(self) -> dict[str, Any]:
        """The one form of a candidate in files.

        Returns:
            `layers`, a list of `[query_heads, kv_heads, mlp_channels]`, one a layer, with the types of its matrices and
            the channels of its experts behind them where there are any; and the choices of the whole model that do not
            have their default values, by name.
        """
        values = {name: getattr(self, name) for name in _defaults(type(self)) if name != "layers"}
        chosen = {name: value for name, value in values.items() if value != _defaults(type(self))[name]}
        return {"layers": [list(shape.row) for shape in self.layers], **chosen}

    @classmethod
    def from_json(cls, form: Mapping[str, Any]) -> Candidate:
        """The inverse of `to_json`.

        Raises:
            ValueError: The form is not that of a candidate.
        """
        names = _defaults(cls)
        if not isinstance(form, Mapping) or "layers" not in form or not form.keys() <= names.keys():
            raise ValueError(f"Candidate: expected a mapping with {', '.join(names)}, got {form!r}.")
        if not isinstance(form["layers"], list | tuple) or not form["layers"]:
            raise ValueError(f"Candidate: expected a list of layers, got {form['layers']!r}.")
        return cls.from_rows(**form)

    @classmethod
    def from_rows(cls, layers: Sequence[Sequence[int]], **chosen: Any) -> Candidate:
        """The candidate with these layers, each `[query_heads, kv_heads, mlp_channels]`.

        Args:
            layers: One row a layer.
            chosen: Choices of the whole model, by name.

        Raises:
            ValueError: A row is not a list of whole numbers, one for each field of a layer.
        """
        names = _defaults(LayerShape)
        least = [*names.values()].count(MISSING)
        for index, row in enumerate(layers):
            whole = isinstance(row, list | tuple) and all(type(value) is int for value in row)
            if not whole or not least <= len(row) <= len(names):
                raise ValueError(f"Candidate layer {index}: expected [{', '.join([*names][:least])}], got {row!r}.")
        return cls(tuple(LayerShape(*row) for row in layers), **chosen)
