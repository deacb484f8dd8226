"""How large what is stored and held of a supernet is: names, shapes and bytes from a model's numbers, free of torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod

from space.candidate import HEAD, KINDS, Candidate, LayerShape, Option, widths
from space.models.architectures import architecture_of
from space.models.block_layout import BlockLayout, Projection
from space.size import attention_params, attention_weights, layer_params, mlp_weights
from space.spec import ModelSpec

LEVELS = 4  # of a block, among the designs through which a supernet is healed: of twelve, several are alike
MOVED_ROWS = 128  # of a matrix that are put in another order at once
PACKED_ROWS = 512  # of a factor that are stored together, without most of the zeros above its diagonal
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_STORED = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "BF16": 2, "F16": 2}


def merged_name(groups: int, parameter: str) -> str:
    """The tensor of a projection with so many merged groups."""
    return f"merged_{groups}.{parameter}"


def lost_name(groups: int) -> str:
    """The tensor that says what an attention block loses with so many merged groups."""
    return f"merged_{groups}.lost"


def read_name(kind: str) -> str:
    """The factor of the Gram matrix of what the input projections of a kind of block read."""
    return f"{kind}_read"


@dataclass(frozen=True)
class Part:
    """One of the things that fill memory or a disk.

    Attributes:
        what: It is.
        bytes: That it takes.
        setting: That makes it smaller, as one writes it; empty where none does.
    """

    what: str
    bytes: int
    setting: str = ""


def total(parts: Sequence[Part]) -> int:
    """Bytes of some parts together."""
    return sum(part.bytes for part in parts)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a layer's file: its name, its dtype as safetensors has it, and its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Of its values."""
        return _BYTES[self.dtype] * prod(self.shape)


def stored_tensors(spec: ModelSpec, dtype: str, *, read: bool = False, plain: bool = False) -> list[StoredTensor]:
    """What `prepared_layer` makes of a layer of a model that runs in a dtype, such as `bfloat16`.

    Args:
        spec: The model.
        dtype: See above.
        read: Whether what input projections read is kept too.
        plain: Whether the layer has a plain MLP among mixtures.
    """
    channels, columns = 0 if plain else spec.mlp_channels, spec.query_heads * spec.head_dim
    layout = architecture_of(spec.family).attention
    maps = [] if spec.routed else [*_packed("mlp_maps", channels)]
    tensors = [
        StoredTensor("mlp_order", "I64", (channels,)),
        StoredTensor("mlp_lost", "F64", (2 if plain else channels + 1,)),
        *maps,
        *([] if plain or not spec.narrow_experts else _of_experts(spec)),
        StoredTensor("group_order", "I64", (spec.kv_heads,)),
        StoredTensor("head_order", "I64", (spec.kv_heads, spec.queries_per_group)),
        *_packed("attention_factor", columns),
        *(tensor for kind in KINDS if read for tensor in _packed(read_name(kind), spec.hidden)),
    ]
    for kept in range(1, spec.queries_per_group + 1):
        tensors.append(StoredTensor(f"attention_lost_{kept}", "F64", (columns + 1,)))
    for groups in spec.merged_kv_heads:
        tensors.append(StoredTensor(lost_name(groups), "F32", ()))
        shape = LayerShape(spec.query_heads, groups, 0)
        matrices = [
            (each.name, sum(each.rows(shape, spec.head_dim)), spec.hidden, spec.qkv_bias) for each in layout.inputs
        ]
        for name, rows, inputs, biased in (*matrices, (layout.output, spec.hidden, columns, spec.o_bias)):
            tensors.append(StoredTensor(merged_name(groups, f"{name}.weight"), _STORED[dtype], (rows, inputs)))
            if biased:
                tensors.append(StoredTensor(merged_name(groups, f"{name}.bias"), _STORED[dtype], (rows,)))
    return tensors


def _of_experts(spec: ModelSpec) -> list[StoredTensor]:
    """The order of the channels of experts, and what these lose with fewer."""
    experts, channels = spec.mlp_channels, spec.expert_channels
    return [
        StoredTensor("expert_energy", "F64", (experts,)),
        StoredTensor("expert_order", "I64", (experts, channels)),
        StoredTensor("expert_lost", "F64", (experts, channels + 1)),
    ]


def _packed(name: str, columns: int) -> Iterator[StoredTensor]:
    """A factor as blocks of rows, each as long as its last row."""
    for start in range(0, columns, PACKED_ROWS):
        end = min(start + PACKED_ROWS, columns)
        yield StoredTensor(f"{name}.{start}", "F32", (end - start, end))


def layer_file_bytes(spec: ModelSpec, dtype: str, *, read: bool = False, plain: bool = False) -> int:
    """Of a layer's safetensors, with the header; see `stored_tensors`."""
    header, end = {}, 0
    for tensor in sorted(
        stored_tensors(spec, dtype, read=read, plain=plain), key=lambda tensor: (-_BYTES[tensor.dtype], tensor.name)
    ):
        start, end = end, end + tensor.bytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]}
    return 8 + 8 * ceil(len(json.dumps(header, separators=(",", ":"))) / 8) + end


def supernet_bytes(spec: ModelSpec, dtype: str, *, read: bool = False) -> int:
    """Of all that a prepared supernet keeps on disk; see `stored_tensors`."""
    head = sum(tensor.bytes for tensor in _packed(read_name(HEAD), spec.hidden)) if read else 0
    plain = len(spec.plain_mlps)
    layers = (spec.layers - plain) * layer_file_bytes(spec, dtype, read=read)
    layers += plain * layer_file_bytes(spec, dtype, read=read, plain=True) if plain else 0
    return layers + head + len(json.dumps(spec.to_json(), indent=1)) + 24 * spec.layers


def layer_bytes(spec: ModelSpec, dtype: str) -> int:
    """Of the largest decoder layer of the dense model."""
    return ITEM_BYTES[dtype] * max(layer_params(spec, shape) for shape in {*Candidate.dense(spec).layers})


def calibration_parts(
    spec: ModelSpec, dtype: str, tokens: int, *, steps: int, batch_size: str = "", read: bool = False
) -> list[Part]:
    """What the calibration of one layer holds where it runs, beside the residual streams and the model, at its most.

    Args:
        spec: The dense model.
        dtype: What it runs in.
        tokens: Of a forward pass.
        steps: How often the cost of channels is evaluated anew.
        batch_size: The setting that `tokens` follow from.
        read: Whether what input projections read is kept too.
    """
    channels, columns, hidden = spec.mlp_columns, spec.query_heads * spec.head_dim, spec.hidden
    layer, item = Candidate.dense(spec).layers[0], ITEM_BYTES[dtype]
    factors, merges = channels**2 + columns**2, len(spec.merged_kv_heads)
    files = layer_file_bytes(spec, dtype, read=read)
    merged = merges * item * projection_params(spec, layer.query_heads, layer.kv_heads)
    # the inverse, the output projection and what of it moves, rows of a step, thrice, and rows on their way
    rows = 3 * ceil(channels / steps) + 2 * min(MOVED_ROWS, channels)
    order = 4 * round(channels**2 + 1.8 * hidden * channels + rows * channels)
    # what is stored by then, and a Gram matrix, a product with the output and weights a merge; float64 for the last one
    matrices = merges * (columns**2 + hidden * columns + attention_weights(spec, layer.query_heads, layer.kv_heads))
    merging = files - merged - 4 * factors + 4 * (matrices + 6 * columns**2 + 8 * hidden * columns) if merges else 0
    inside = activation_bytes(spec, dtype, tokens) + 4 * tokens * spec.token_channels
    activations = Part("activations of a batch", inside)
    work = max(order, merging, files)
    parts = [
        Part("a layer in float32", layer_bytes(spec, "float32")),
        Part("its Gram matrices", 4 * factors + read * 12 * hidden**2),
    ]
    if work >= activations.bytes:
        return [*parts, Part("what ordering, merging and storing hold", work)]
    return [*parts, Part(activations.what, activations.bytes, batch_size)]


def activation_bytes(spec: ModelSpec, dtype: str, tokens: int) -> int:
    """What a forward pass of one layer holds at its most, the residual stream with it."""
    item, columns = ITEM_BYTES[dtype], spec.query_heads * spec.head_dim
    attention = 3 * columns + 4 * spec.kv_heads * spec.head_dim
    return tokens * (item * max(3 * spec.token_channels, attention) + 12 * spec.hidden)


def solving_bytes(spec: ModelSpec, dtype: str) -> int:
    """What the refits of a block take at most while they are solved, see `space.supernet.compensation`."""
    exact, channels, columns = 8 if dtype == "float32" else 4, spec.mlp_columns, spec.query_heads * spec.head_dim
    # output weights with what columns that are gone have given them, one level, its copies, and two blocks of maps
    together = min(PACKED_ROWS, channels)
    mlp = (2 * exact + 2 * ITEM_BYTES[dtype]) * spec.hidden * channels + (4 + exact) * together * channels
    # the factor as it is stored, whole and in its two parts, a Gram matrix and its factor; output weights, and a level
    attention = (8 + 4 * exact) * columns**2 + 2 * exact * spec.hidden * columns
    return max(mlp, attention)


def projection_params(spec: ModelSpec, heads: int, groups: int) -> int:
    """Parameters of the projections of an attention block."""
    return attention_params(replace(spec, attention_norms=0, qk_norm=False), heads, groups)


def is_merged(spec: ModelSpec, option: Option) -> bool:
    """Whether an option of attention has KV groups merged: all query heads, under fewer groups."""
    heads, groups = option
    return groups > 0 and heads // groups > spec.queries_per_group


def merges(spec: ModelSpec, kind: str, shape: LayerShape) -> bool:
    """Whether a layer's block of a kind has KV groups merged at a shape."""
    return kind == "attention" and is_merged(spec, (shape.query_heads, shape.kv_heads))


def owned_bytes(spec: ModelSpec, dtype: str, kind: str, option: Option, *, sliced: bool = False) -> int:
    """What a narrower block holds beside the dense model's weights, refit or, `sliced`, as it is timed."""
    item, dense = ITEM_BYTES[dtype], Candidate.dense(spec).layers[0]
    if not option[0] or option == dense.option(kind):
        return 0
    if kind == "mlp" and spec.routed:  # of which all is a view, but for experts with fewer channels
        width = LayerShape.of(mlp=option).expert_channels
        return item * option[0] * width * (3 * spec.hidden + 2 * spec.mlp_bias)
    if option != widths(kind, option):  # in a type of its own, of which nothing is a view
        return item * _weights(spec, kind, option)
    layout, biased = architecture_of(spec.family).blocks[kind], spec.mlp_bias if kind == "mlp" else spec.qkv_bias
    shape = LayerShape.of(**{kind: option})
    copies = sum(_copied(spec, layout, each, shape, biased) for each in layout.inputs)
    if kind == "mlp":
        return item * (spec.hidden * option[0] + copies)
    heads, groups = option
    if is_merged(spec, option):
        return item * (copies if sliced else projection_params(spec, heads, groups))
    rows = heads * spec.head_dim
    if copies:
        return item * (spec.hidden * rows + copies)
    sinks = spec.sinks * heads
    whole = heads == groups * spec.queries_per_group or groups == 1  # then queries are a view
    return item * (
        spec.hidden * rows + (0 if whole else rows * (spec.hidden + spec.qkv_bias + spec.wide_qk_norm) + sinks)
    )


def _weights(spec: ModelSpec, kind: str, option: Option) -> int:
    """Elements of the projection matrices of a block."""
    return attention_weights(spec, *option[:2]) if kind == "attention" else mlp_weights(spec, option[0])


def _copied(spec: ModelSpec, layout: BlockLayout, projection: Projection, shape: LayerShape, biased: bool) -> int:
    """Elements of an input projection that are copies at any shape, as its rows are not together in memory."""
    fused, rows = len(projection.parts) > 1, sum(projection.rows(shape, spec.head_dim))
    return rows * (spec.hidden * (fused or layout.transposed) + (fused and biased))


def map_bytes(spec: ModelSpec, dtype: str, kind: str, option: Option) -> int:
    """Of the map from dropped to kept columns of a narrower block in healing, see `space.supernet.shared`."""
    dense = Candidate.dense(spec).layers[0]
    if not option[0] or option == dense.option(kind):
        return 0
    if kind == "mlp":
        return ITEM_BYTES[dtype] * option[0] * (spec.mlp_channels - option[0]) * (not spec.routed)
    if is_merged(spec, option):
        return 0
    return ITEM_BYTES[dtype] * spec.head_dim**2 * option[0] * (spec.query_heads - option[0])


def maps_bytes(spec: ModelSpec, dtype: str) -> int:
    """Of all such maps in healing, about: as of `LEVELS` levels a block, half of it kept."""
    blocks = (("mlp", (spec.mlp_channels // 2,)), ("attention", (spec.query_heads // 2, spec.kv_heads // 2)))
    return LEVELS * spec.layers * sum(map_bytes(spec, dtype, kind, option) for kind, option in blocks)
