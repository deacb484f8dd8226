"""What a prepared supernet keeps on disk: the order of each layer's units, and what its refits and merges need.

What blocks lose at every level is kept too, though it follows from the rest: a search is steered by these numbers, and
made again with another number of threads they would differ in their last bits, and with them the way of a resumed run.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from space.candidate import HEAD, LayerShape
from space.checks import dtype_name
from space.errors import UserError
from space.files import whole_directory
from space.locations import CACHE_ADVICE
from space.models.architectures import architecture_of
from space.models.expert_tensors import permute_channels
from space.models.mixtures import correction_of
from space.models.stack import experts_of, family_of, layers_of, outside
from space.spec import ModelSpec
from space.supernet.calibration import gather
from space.supernet.compensation import chosen_map, dropped_map, factor
from space.supernet.importance import AttentionOrder, damp_, rule_of
from space.supernet.placement import Placement
from space.supernet.prepared_layer import packed, prepared_layer
from space.supernet.sizes import read_name
from space.supernet.units import attention_columns, permute_attention, permute_mlp

FORMATS = {"mlp": 10, "experts": 11}  # of the files, by what MLPs are
_ORDERS = ("group_order", "head_order", "mlp_order")
_EXPERT_ORDER = "expert_order"  # of the channels of each, where a layer has such
META_FILE = "supernet.json"
_HEAD_FILE = "head.safetensors"


def format_of(spec: ModelSpec) -> int:
    """The format of the files of a model."""
    return FORMATS["experts" if spec.routed else "mlp"]


def is_prepared(directory: Path) -> bool:
    """Whether a directory holds a prepared supernet."""
    return (directory / META_FILE).is_file()


class StoredLayers:
    """A directory with one file a layer.

    Attributes:
        directory: Where.
        spec: The dense model.
        influence: Block influence of every layer on the calibration text; small means that it changes little.
        reads: Whether it says what input projections and the LM head read.
        windows: Of the calibration text; None where earlier versions stored it.
    """

    def __init__(
        self,
        directory: Path,
        spec: ModelSpec,
        influence: tuple[float, ...],
        reads: bool = False,
        windows: int | None = None,
    ) -> None:
        """Takes what is known to be there; use `make` or `open`."""
        self.directory = directory
        self.spec = spec
        self.influence = influence
        self.reads = reads
        self.windows = windows

    @classmethod
    def make(
        cls,
        model: Any,
        spec: ModelSpec,
        tokens: Tensor,
        directory: Path,
        *,
        dtype: torch.dtype,
        place: Placement,
        importance: str,
        experts: str,
        damping: float,
        steps: int,
        batch_size: int,
        read: bool,
        on_layer: Callable[[int], None],
    ) -> StoredLayers:
        """Calibrates, orders and permutes a model, and writes the directory, whole or not at all.

        Args and errors are those of `Supernet.prepare`.
        """
        rule = rule_of(importance)
        place_rest(model, dtype, place)
        influence: list[float] = []
        with whole_directory(
            directory,
            is_whole=is_prepared,  # another process was faster; its result is the same
            advice=CACHE_ADVICE,
            failures=(SafetensorError,),
        ) as unfinished:
            head = torch.zeros(spec.hidden, spec.hidden, device=place.device) if read else None
            for statistics in gather(
                model, tokens, forward_dtype=dtype, place=place, batch_size=batch_size, head_gram=head
            ):
                index = statistics.index
                tensors = prepared_layer(
                    statistics, spec, rule, experts=experts, damping=damping, steps=steps, dtype=dtype
                )
                save_file(tensors, unfinished / _layer_file(index))
                place_layer(layers_of(model)[index], spec, tensors, dtype, place)
                influence.append(statistics.influence)
                on_layer(index)
                del statistics, tensors  # before the next layer's are made
            if head is not None and model.get_output_embeddings() is not None:
                lower = factor(damp_(head, damping))
                save_file(packed(read_name(HEAD), lower), unfinished / _HEAD_FILE)
            meta = {"format": format_of(spec), "spec": spec.to_json(), "dtype": str(dtype), "influence": influence}
            meta |= {"windows": len(tokens)} | ({"read": True} if read else {})
            (unfinished / META_FILE).write_text(json.dumps(meta, indent=1))
        return cls(directory, spec, tuple(influence), read, len(tokens))

    @classmethod
    def open(cls, directory: Path, spec: ModelSpec, dtype: torch.dtype) -> StoredLayers:
        """What is there for a model that runs in a dtype.

        Raises:
            UserError: There is nothing, or it belongs to another model, dtype or version.
        """
        if not is_prepared(directory):
            raise UserError(f"Expected a prepared supernet in {directory}, found none. Run the search once more.")
        meta = json.loads((directory / META_FILE).read_text())
        if meta["format"] != format_of(spec):
            raise UserError(
                f"The supernet in {directory} was stored by another version of paretoprune (format {meta['format']}, "
                f"expected {format_of(spec)}). Start a new run, or go on with the version that began this one."
            )
        if meta["spec"] != spec.to_json() | {"name": meta["spec"]["name"]}:
            raise UserError(
                f"The supernet in {directory} was prepared for {meta['spec']['name']} "
                f"(digest {meta['spec']['digest']}), but the model is {spec.name} (digest {spec.digest}). "
                "Use the model of the run, or start a new run."
            )
        if meta["dtype"] != str(dtype):
            stored = dtype_name(meta["dtype"])
            raise UserError(
                f"The supernet in {directory} was prepared in {stored}, but the model runs in "
                f"{dtype_name(dtype)}. Set model.dtype={stored}, or start a new run."
            )
        return cls(directory, spec, tuple(meta["influence"]), meta.get("read", False), meta.get("windows"))

    def place(self, model: Any, dtype: torch.dtype, place: Placement) -> None:
        """Puts a dense model's units in their order, and the model where and in what it runs, layer after layer."""
        place_rest(model, dtype, place)
        for index, layer in enumerate(layers_of(model)):
            narrow = self.spec.narrow_experts and index not in self.spec.plain_mlps
            names = (*_ORDERS, _EXPERT_ORDER) if narrow else _ORDERS
            orders = {name: self.tensor(index, name, torch.device("cpu")) for name in names}
            place_layer(layer, self.spec, orders, dtype, place)

    def tensor(self, index: int, name: str, device: torch.device) -> Tensor:
        """One tensor of a layer."""
        with safe_open(self.directory / _layer_file(index), framework="pt", device=str(device)) as stored:
            return stored.get_tensor(name)

    def maps(self, index: int, device: torch.device, *, last_first: bool) -> Iterator[Tensor]:
        """The maps of a layer's MLP, a block of columns each, see `space.supernet.compensation.maps`; float32."""
        with safe_open(self.directory / _layer_file(index), framework="pt", device=str(device)) as stored:
            names = _row_names(stored.keys(), "mlp_maps")
            for name in reversed(names) if last_first else names:
                yield stored.get_tensor(name)

    def dropped_map(self, index: int, kind: str, shape: LayerShape, device: torch.device, dtype: torch.dtype) -> Tensor:
        """How the columns that a shape drops follow from those that it keeps, see `space.supernet.compensation`.

        Args:
            index: The layer.
            kind: Of block, a row of `space.candidate.KINDS`.
            shape: A shape of the layer whose block is neither whole nor gone nor merged.
            device: Where to.
            dtype: What it is solved in.

        Returns:
            Shape (columns dropped, columns kept); those of attention in the order of
            `space.supernet.units.attention_columns`.
        """
        if kind == "mlp":
            blocks = self.maps(index, device, last_first=False)
            return dropped_map((block.to(dtype) for block in blocks), shape.mlp_channels)
        columns = attention_columns(self.spec, shape.queries_per_group).to(device)
        kept = shape.query_heads * self.spec.head_dim
        return chosen_map(self.attention_factor(index, device).to(dtype), columns[:kept], columns[kept:])

    def attention_factor(self, index: int, device: torch.device) -> Tensor:
        """The Cholesky factor of the damped Gram matrix of what a layer's attention hands to its output projection."""
        return self._lower(_layer_file(index), "attention_factor", device)

    def read_factor(self, index: int, kind: str, device: torch.device) -> Tensor:
        """The same of what input projections of a layer's block of a kind read; of `HEAD`, of what the LM head does."""
        return self._lower(_HEAD_FILE if kind == HEAD else _layer_file(index), read_name(kind), device)

    def _lower(self, file: str, name: str, device: torch.device) -> Tensor:
        with safe_open(self.directory / file, framework="pt", device=str(device)) as stored:
            blocks = [stored.get_tensor(each) for each in _row_names(stored.keys(), name)]
        lower = torch.zeros(blocks[-1].shape[1], blocks[-1].shape[1], device=device)
        for block in blocks:
            rows, end = block.shape
            lower[end - rows : end, :end] = block
        return lower

    def link_to(self, directory: Path) -> None:
        """Puts the stored factors into another directory, as hard links where the file system can.

        Raises:
            UserError: The directory cannot be written.
        """
        if is_prepared(directory):
            return
        with whole_directory(directory, is_whole=is_prepared) as unfinished:
            for file in self.directory.iterdir():
                try:
                    os.link(file, unfinished / file.name)
                except OSError:  # another file system
                    shutil.copy2(file, unfinished / file.name)
        self.directory = directory


def place_rest(model: Any, dtype: torch.dtype, place: Placement) -> None:
    """Puts all of a model but its layers where and in what it runs, or embeddings where layers wait."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    waits = None if head is not None and embedding.weight is head.weight else embedding
    for _, child in outside(model):
        _settle(child, dtype, place.home if child is waits else place.device)
    model.config.dtype = dtype


def place_as_it_came(model: Any, dtype: torch.dtype, place: Placement) -> None:
    """Puts a model where and in what it runs, its units in the order that they came in."""
    place_rest(model, dtype, place)
    layout = family_of(model).mlp
    for layer in layers_of(model):
        _settle(layer, dtype, place.home, correction_of(layer, layout))


@torch.no_grad()
def place_layer(
    layer: Any, spec: ModelSpec, orders: Mapping[str, Tensor], dtype: torch.dtype, place: Placement
) -> None:
    """Puts a dense decoder layer's units in their order, then the layer in what it runs, and where it waits for that.

    Units move within the memory that is there: a layer whose file is mapped takes no more than itself.
    """
    groups, heads, channels = (orders[name].cpu() for name in _ORDERS)
    family = architecture_of(spec.family)
    attention, mlp = (layer.get_submodule(layout.module) for layout in (family.attention, family.mlp))
    permute_attention(attention, family.attention, spec, AttentionOrder(groups, heads))
    if len(channels):  # a plain MLP among mixtures has none
        permute_mlp(mlp, family.mlp, spec, channels)
    if _EXPERT_ORDER in orders:
        permute_channels(experts_of(layer, family.mlp), orders[_EXPERT_ORDER])
    _settle(layer, dtype, place.home, correction_of(layer, family.mlp))


def _settle(module: nn.Module, dtype: torch.dtype, device: torch.device, kept: Tensor | None = None) -> None:
    """Moves a module, and casts its parameters but one; buffers such as RoPE's frequencies stay in float32."""
    module.to(device)
    for parameter in module.parameters():
        if parameter is not kept:  # what chooses experts, whose differences are small, as transformers keeps it
            parameter.data = parameter.data.to(dtype)


def _layer_file(index: int) -> str:
    return f"layer-{index:03d}.safetensors"


def _row_names(names: Iterable[str], name: str) -> list[str]:
    """The names of a packed matrix's blocks of rows, in their order."""
    starts = [int(key.rpartition(".")[2]) for key in names if key.rpartition(".")[0] == name]
    return [f"{name}.{start}" for start in sorted(starts)]
