"""The weights that all subnets of a supernet share, as parameters: what one subnet teaches them, all have learned.

A subnet's parameters are functions of the shared ones, through which gradients reach these: first rows of input
projections or experts, norms as they are, and of an output projection W, columns in their order, the level

    W_k = W[:, :k] + W[:, k:] T_k.

T_k, which says how dropped inputs follow from kept ones on the calibration text (`space.supernet.compensation`), is
held constant. Blocks with merged KV groups have shared weights of their own. The order of
units, the embeddings and the output matrix stay as they are. So whatever is learned is a supernet again, with the
maps of the one it came from: `Supernet.with_weights`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from space.candidate import Candidate, LayerShape
from space.models.architectures import architecture_of
from space.models.expert_tensors import first_channels
from space.models.stack import experts_of, layers_of, stack_of, stream_of, whole
from space.models.streams import recorded_streams
from space.supernet.calibration import first_inputs, layer_arguments
from space.supernet.modules import own_modules
from space.supernet.placement import Placement
from space.supernet.refits import MERGED, shared_name
from space.supernet.supernet import Supernet
from space.supernet.units import attention_columns, kept_rows, upright


class SharedWeights:
    """The weights that a supernet's subnets share, in the model's dtype, to be trained.

    Attributes:
        parameters: By their names in the stack; of merged groups, `layers.3.merged_1` stands for the block.
    """

    def __init__(self, supernet: Supernet, candidates: list[Candidate], trainable: Callable[[str], bool]) -> None:
        """Copies what is to be trained of a supernet.

        Args:
            supernet: Whose.
            candidates: The subnets that will be asked for.
            trainable: Says of a name whether it is trained.
        """
        self._supernet = supernet
        self._spec = supernet.spec
        self._dense = Candidate.dense(supernet.spec).layers
        self._family = architecture_of(supernet.spec.family)
        self._kinds = {name: kind for kind, layout in self._family.blocks.items() for name in layout.modules}
        self._layers = f"{self._family.stack.layers}."
        self._norms = self._family.staying
        self._maps: dict[tuple[int, str, int, int], Tensor] = {}
        self._models: dict[Candidate, Any] = {}
        self.parameters: dict[str, nn.Parameter] = {}
        held = {
            name: parameter
            for name, parameter in stack_of(supernet.model).named_parameters()
            if (name.startswith(self._layers) and not self._is_correction(name)) or self._is_of_norm(name)
        }
        for index in range(supernet.spec.layers):
            for groups in {c.layers[index].kv_heads for c in candidates if self._merges(c.layers[index])}:
                layer = supernet.layer(index, LayerShape(supernet.spec.query_heads, groups, 0))
                block = layer.get_submodule(self._family.attention.module)
                held |= {shared_name(index, groups, name): p for name, p in block.named_parameters()}
        for name, tensor in held.items():
            if trainable(name):
                self.parameters[name] = nn.Parameter(tensor.detach().clone())
        self._names: dict[int, list[tuple[str, str]]] = {index: [] for index in range(supernet.spec.layers)}
        for name in self.parameters:
            if not self._is_of_norm(name):
                inside = name.removeprefix(self._layers).removeprefix(MERGED)
                number, _, rest = inside.partition(".")
                self._names[int(number)].append((name, rest))

    def hidden(self, candidate: Candidate, tokens: Tensor, streams: dict[int, Tensor] | None = None) -> Tensor:
        """Normed last hidden states of a subnet, differentiable by the shared weights, `(windows, length, hidden)`.

        Where layers wait on the host, each is brought to the device for its forward pass, and once more for the
        backward one, in which it is run again.

        Args:
            candidate: The subnet.
            tokens: What it reads, `(windows, length)`.
            streams: Takes the residual stream behind each layer that is left, by its number in the dense model, of
                shape `(windows · length, hidden)`; None where none is wanted.
        """
        if self._supernet.place.streamed:
            return self._passing(candidate, tokens, streams)
        if candidate not in self._models:
            self._models[candidate] = stack_of(own_modules(self._supernet.view(candidate)))
        model = self._models[candidate]
        arguments = {**whole(model, tokens), "use_cache": False}
        places = {} if streams is None else {index: place for place, index in enumerate(candidate.kept)}
        with recorded_streams(model, places) as recorded:
            hidden: Tensor = functional_call(model, self._of(candidate), (), arguments).last_hidden_state
        if streams is not None:
            streams |= recorded
        return hidden

    def _passing(self, candidate: Candidate, tokens: Tensor, streams: dict[int, Tensor] | None) -> Tensor:
        supernet, place = self._supernet, self._supernet.place
        model = supernet.model
        arguments = layer_arguments(model, tokens, model.dtype, place.device)
        (hidden,) = first_inputs(model, [tokens], model.dtype, Placement(place.device))
        for index, shape in enumerate(candidate.layers):
            if not shape.gone:
                run = partial(self._run, index, shape, arguments[index])
                hidden = checkpoint(run, hidden, use_reentrant=False)
                if streams is not None:
                    streams[index] = hidden.flatten(0, 1)
        norm: dict[str, Tensor] = {
            name.rpartition(".")[2]: p for name, p in self.parameters.items() if self._is_of_norm(name)
        }
        normed: Tensor = functional_call(supernet.norm(), norm, (hidden,))
        return normed

    def _run(self, index: int, shape: LayerShape, arguments: dict[str, Any], hidden: Tensor) -> Tensor:
        """A layer on the device, with what is trained of it."""
        layer = self._supernet.layer(index, shape)
        return stream_of(functional_call(layer, self._of_layer(index, shape), (hidden,), arguments))

    def _is_of_norm(self, name: str) -> bool:
        """Whether a shared weight is of the norm behind the last layer."""
        return name.rpartition(".")[0] == self._family.stack.norm

    def _is_correction(self, name: str) -> bool:
        """Whether a parameter decides alone which experts are chosen, so that no gradient reaches it."""
        mlp = self._family.mlp
        correction = mlp.routed.correction if mlp.routed is not None else None
        return correction is not None and name.endswith(f".{mlp.path(correction)}")

    def _merges(self, shape: LayerShape) -> bool:
        return shape.queries_per_group > self._spec.queries_per_group

    def _of(self, candidate: Candidate) -> dict[str, Tensor]:
        """A subnet's parameters by their names in its model, as far as they are trained."""
        parameters: dict[str, Tensor] = {name: p for name, p in self.parameters.items() if self._is_of_norm(name)}
        for place, index in enumerate(candidate.kept):
            of_layer = self._of_layer(index, candidate.layers[index])
            parameters |= {f"{self._family.stack.layers}.{place}.{name}": tensor for name, tensor in of_layer.items()}
        return parameters

    def _of_layer(self, index: int, shape: LayerShape) -> dict[str, Tensor]:
        """The same of one layer, on the device."""
        parameters: dict[str, Tensor] = {}
        attention = self._family.attention
        for name, rest in self._names[index]:
            module, _, inside = rest.partition(".")
            if rest.rpartition(".")[0] in self._norms:  # which leave with no block
                parameters[rest] = self.parameters[name].to(self._supernet.place.device)
                continue
            merged = module.startswith("merged_")
            kind = "attention" if merged else self._kinds[module]
            if not shape.keeps(kind):
                continue
            dense = self.parameters[name].to(self._supernet.place.device)
            if merged:
                if self._merges(shape) and module == f"merged_{shape.kv_heads}":
                    parameters[attention.path(inside)] = dense
            elif not (module == attention.module and self._merges(shape)):
                parameters[rest] = self._kept(index, kind, shape, rest, dense)
        return parameters

    def _kept(self, index: int, kind: str, shape: LayerShape, name: str, dense: Tensor) -> Tensor:
        if shape.option(kind) == self._dense[index].option(kind):
            return dense
        layout, (projection, _, key) = self._family.blocks[kind], name.rpartition(".")
        if layout.routed:
            of_experts = projection in map(layout.path, layout.routed.modules)
            kept = dense[: shape.mlp_channels] if of_experts else dense
            if not shape.expert_channels or projection != layout.path(layout.routed.experts):
                return kept
            experts = experts_of(layers_of(self._supernet.model)[index], layout)
            return first_channels(experts, key, kept, shape.expert_channels)
        if projection != layout.path(layout.output):
            by_rows = {layout.path(each): projection for each, projection in layout.by_rows.items()}
            known = by_rows.get(projection)  # None of another norm
            return dense if known is None else kept_rows(self._spec, shape, layout, known, dense)
        if key != "weight":
            return dense
        spec, columns, dense = self._spec, shape.mlp_channels, upright(layout, dense)
        if kind == "attention":
            columns = shape.query_heads * spec.head_dim
            dense = dense[:, attention_columns(spec, shape.queries_per_group).to(dense.device)]
        return upright(layout, dense[:, :columns] + dense[:, columns:] @ self._map(index, kind, shape, columns))

    def _map(self, index: int, kind: str, shape: LayerShape, columns: int) -> Tensor:
        """T_k, shape (columns dropped, columns kept)."""
        key = (index, kind, shape.queries_per_group if kind == "attention" else 0, columns)
        if key not in self._maps:
            with torch.inference_mode(False), torch.no_grad():  # whoever asks first, for whatever use
                dtype = self._supernet.model.dtype
                solved = self._supernet.dropped_map(index, kind, shape)
                self._maps[key] = solved.to(self._supernet.place.home, dtype)
        return self._maps[key].to(self._supernet.place.device)
