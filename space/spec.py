"""ModelSpec: the facts of a dense model that the search needs, free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from space.task import CAUSAL_LM, TASKS, Task

MOST_MERGES = 3
Fact = str | int | bool | list[int] | None  # of a model, as JSON has it

# What models were like before there were these is still said as it was: digests and old runs stay.
_SELDOM = (
    "head_bias",
    "qk_norm_bias",
    "norm_weight",
    "bare_first",
    "repeats_groups",
    "mask_token",
    "expert_channels",
    "active_experts",
    "shared_weights",
    "shared_biases",
    "score_bias",
    "plain_mlps",
    "plain_channels",
    "plain_params",
    "sinks",
    "block_scales",
    "image_size",
    "image_tokens",
    "whole_experts",
)


def mlp_units(facts: Mapping[str, Any]) -> str:
    """What an MLP keeps some of, in words, by the facts of a model as `ModelSpec.to_json` gives them."""
    return "experts" if facts.get("expert_channels") else "MLP channels"


@dataclass(frozen=True)
class ModelSpec:
    """The dense model in numbers; every size is a count.

    Attributes:
        name: Hub id, directory name, or the embedded default's name: for people, and no part of what the model is.
        digest: Of weights and configuration, see `space.models.digest`; models with equal digests give equal numbers.
        family: Key of `space.models.architectures.ARCHITECTURES`.
        layers: Decoder layers.
        hidden: Width of the residual stream.
        query_heads: Query heads of a layer.
        kv_heads: Key-value groups of a layer; divides `query_heads`.
        head_dim: Width of one head; not always `hidden / query_heads`.
        mlp_channels: Intermediate channels of a layer's MLP; of a mixture of experts, these.
        vocab: Rows of the embedding matrix; 0 of a model that reads images.
        tied_embeddings: Whether the output projection is the embedding matrix.
        head_bias, qkv_bias, o_bias, mlp_bias: Whether the LM head and which projections carry a bias; of a mixture of
            experts, the router too.
        qk_norm_bias: Whether norms of queries and keys do.
        gated: Whether an MLP multiplies what its up projection gives by what a gate projection does.
        attention_norms, mlp_norms: Norms over the residual stream's width that leave with a block of the kind.
        layer_norms: Such norms that both blocks read through, which leave with the layer.
        norm_weight: Whether these and the last norm have a weight.
        bare_first: Whether the attention of the first layer alone has no norm before it.
        norm_bias: Whether these and the last norm have a bias too.
        qk_norm: Whether queries and keys are normed, each by a weight of `head_dim` values.
        wide_qk_norm: Whether these norms go over all heads together, each by a weight for every value.
        parallel: Whether both blocks of a layer read the residual stream before it.
        positions: Learned embeddings of positions; 0 where there are none. Of a model that reads images, one has so
            many tokens.
        rest: Parameters of what is none of these and no head, such as of types of tokens.
        task: What the model is for, a row of `space.task.TASKS`.
        pooling: How an embedder makes one vector of a sequence: `mean` of its tokens, or the first one, `cls`.
        merges: Whether KV groups can be merged: rotary embedding turns all of a head, in pairs half a head apart, or
            nothing, heads have no sinks, and the family's classes have groups.
        repeats_groups: Whether a KV cache holds keys and values of each query head, those of a group once for each.
        mask_token: What stands in the place of a hidden word, of a model that guesses these.
        expert_channels: Intermediate channels of an expert; 0 where MLPs are no mixtures of such.
        active_experts: Experts that each token goes through; 0 likewise.
        shared_weights: Elements of matrices of what every token goes through beside experts; 0 likewise.
        shared_biases: Its other parameters.
        score_bias: Whether a mixture has a parameter for each expert that is added where experts are chosen.
        plain_mlps: Layers with a plain MLP among others with mixtures: it is kept whole, or leaves. None likewise.
        plain_channels: Intermediate channels of such an MLP, more than a mixture has experts: a layer's `mlp_channels`
            say which of the two it has.
        plain_params: Parameters of such an MLP, without its norms.
        sinks: Whether each query head has a number of what attends to nothing.
        block_scales: Whether what a block adds is scaled by a weight for each value, which leaves with the block.
        image_size: Height and width of images in pixels, where the configuration says others; else 0.
        image_tokens: Tokens of an image, where these are others than the positions; else 0.
        whole_experts: Whether experts keep all of their channels, as a configuration says by one number how many these
            and what is shared beside them have.
    """

    name: str
    digest: str
    family: str
    layers: int
    hidden: int
    query_heads: int
    kv_heads: int
    head_dim: int
    mlp_channels: int
    vocab: int
    tied_embeddings: bool
    head_bias: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    gated: bool = True
    attention_norms: int = 1
    mlp_norms: int = 1
    layer_norms: int = 0
    norm_weight: bool = True
    bare_first: bool = False
    norm_bias: bool = False
    qk_norm: bool = False
    wide_qk_norm: bool = False
    qk_norm_bias: bool = False
    parallel: bool = False
    positions: int = 0
    merges: bool = True
    repeats_groups: bool = False
    rest: int = 0
    task: str = CAUSAL_LM
    pooling: str = "mean"
    mask_token: int | None = None
    expert_channels: int = 0
    active_experts: int = 0
    shared_weights: int = 0
    shared_biases: int = 0
    score_bias: bool = False
    plain_mlps: tuple[int, ...] = ()
    plain_channels: int = 0
    plain_params: int = 0
    sinks: bool = False
    block_scales: bool = False
    image_size: int = 0
    image_tokens: int = 0
    whole_experts: bool = False

    def __post_init__(self) -> None:
        for field in ("layers", "hidden", "query_heads", "kv_heads", "head_dim", "mlp_channels"):
            value = getattr(self, field)
            if value < 1:
                raise ValueError(f"ModelSpec.{field}: expected a positive count, got {value}.")
        for field in ("attention_norms", "mlp_norms", "layer_norms"):
            if getattr(self, field) < 0:
                raise ValueError(f"ModelSpec.{field}: expected a count of at least 0, got {getattr(self, field)}.")
        if not 0 <= self.active_experts <= self.mlp_channels or bool(self.active_experts) != bool(self.expert_channels):
            raise ValueError(
                f"ModelSpec: expected active_experts and expert_channels of a mixture, or 0 for both, got "
                f"{self.active_experts} of {self.mlp_channels}, each of {self.expert_channels} channels."
            )
        object.__setattr__(self, "plain_mlps", tuple(self.plain_mlps))  # a list where the facts were JSON
        if (self.plain_mlps and not self.routed) or 0 < self.plain_channels <= self.mlp_channels:
            raise ValueError(
                f"ModelSpec: expected plain MLPs among mixtures alone, of more channels than there are experts, got "
                f"{self.plain_channels} channels and {self.mlp_channels} experts in a model of {self.expert_channels} "
                "channels an expert."
            )
        if self.query_heads % self.kv_heads:
            raise ValueError(
                f"ModelSpec: expected query_heads to be a multiple of kv_heads, "
                f"got {self.query_heads} and {self.kv_heads}."
            )

    @property
    def queries_per_group(self) -> int:
        """Query heads that share one key-value group."""
        return self.query_heads // self.kv_heads

    def cached_heads(self, query_heads: int, kv_heads: int) -> int:
        """Heads whose keys and values a KV cache holds of a layer with so many."""
        return query_heads if self.repeats_groups else kv_heads

    @property
    def routed(self) -> bool:
        """Whether MLPs are mixtures of experts."""
        return self.expert_channels > 0

    @property
    def narrow_experts(self) -> bool:
        """Whether experts may keep fewer channels."""
        return self.routed and not self.whole_experts

    @property
    def mlp_units(self) -> str:
        """What an MLP keeps some of, in words."""
        return mlp_units(self.to_json())

    @property
    def least_mlp_channels(self) -> int:
        """The fewest units that an MLP can do with: no token is to go through more experts than there are."""
        return self.active_experts if self.routed else 1

    @property
    def mlp_columns(self) -> int:
        """Columns of an MLP's output projection, which is refit; 0 of a mixture of experts, which is not."""
        return 0 if self.routed else self.mlp_channels

    @property
    def token_channels(self) -> int:
        """Intermediate channels of an MLP that each token goes through, at its most."""
        routed = self.active_experts * self.expert_channels
        return max(routed, self.plain_channels) if self.routed else self.mlp_channels

    def whole_mlp(self, layer: int) -> int:
        """Units of a layer's MLP as it came."""
        return self.plain_channels if layer in self.plain_mlps else self.mlp_channels

    def is_plain(self, mlp_channels: int) -> bool:
        """Whether an MLP of so many units is a plain one among mixtures."""
        return self.plain_channels > 0 and mlp_channels == self.plain_channels

    @property
    def merged_kv_heads(self) -> tuple[int, ...]:
        """Counts of KV groups that merging may leave with all query heads: the largest proper divisors of `kv_heads`.

        None for models that norm their keys or turn only a part of them: what tells the parts of a head apart keeps
        merged keys from being aligned.
        """
        if self.qk_norm or not self.merges or self.head_dim % 2:
            return ()
        divisors = [count for count in range(self.kv_heads - 1, 0, -1) if self.kv_heads % count == 0]
        return tuple(divisors[:MOST_MERGES])

    @property
    def use(self) -> Task:
        """The row of its task."""
        return TASKS[self.task]

    def tokens_of(self, shape: Sequence[int]) -> int:
        """Tokens of a window, by the shape of several: (windows, length), or (images, channels, height, width)."""
        return self.image_length if self.use.reads == "images" else shape[1]

    @property
    def image_length(self) -> int:
        """Tokens of an image, of a model that reads such."""
        return self.image_tokens or self.positions

    def head_params(self, rows: int) -> int:
        """Parameters of an LM head of so many rows and the norm before it that are no embeddings; 0 without a head."""
        if not self.use.writes:
            return 0
        head = 0 if self.tied_embeddings else rows * self.hidden
        head += rows * self.head_bias
        return head + (self.norm_weight + self.norm_bias) * self.hidden

    @property
    def identity(self) -> dict[str, Fact]:
        """What the model is, ready for JSON: the fields but its name."""
        return {field: value for field, value in self.to_json().items() if field != "name"}

    def to_json(self) -> dict[str, Fact]:
        """The fields as a JSON-ready mapping, those that few models have where they say something."""
        defaults = {field.name: field.default for field in fields(self)}
        values = asdict(self).items()
        said = {name: value for name, value in values if name not in _SELDOM or value != defaults[name]}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in said.items()}
