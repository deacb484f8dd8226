"""Calibration text to Gram matrices, layer after layer, so that one layer's matrices are in memory at a time."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from space.errors import UserError
from space.models.layout import Architecture
from space.models.stack import experts_of, family_of, layers_of, norm_of, stack_of, stream_of, whole
from space.supernet.experts import ExpertHook, ExpertSums
from space.supernet.hooks import InputGram
from space.supernet.modules import own_modules, put_module, twin
from space.supernet.placement import Placement, asked_of
from space.supernet.units import output_weight

_ADVICE = "check that it writes sensible text in transformers, and that its config.json is its own"


@dataclass(frozen=True)
class LayerStatistics:
    """What calibration learns of one decoder layer.

    Attributes:
        index: Of the layer.
        layer: A copy of it with float32 weights, the caller's to change.
        grams: By kind of block, XᵀX / tokens of its output projection's input, float32, shape (query_heads · head_dim,)
            * 2 or (mlp_channels,) * 2; the caller's to take out. Mixtures of experts have none.
        experts: What is known of the experts of its mixture; None where its MLP is none.
        read: By kind of block, the same of what its input projections read, shape (hidden,) * 2; or nothing.
        influence: 1 − mean cosine of the residual stream before and after the layer (Block Influence of ShortGPT,
            Men et al. 2024, eq. 1): small for a layer that changes little.
        inputs: Residual streams before the layer, each float32 of shape (windows, time, hidden), where they wait.
        arguments: What else the layer is called with.
    """

    index: int
    layer: Any
    grams: dict[str, Tensor]
    experts: ExpertSums | None
    read: dict[str, Tensor]
    influence: float
    inputs: list[Tensor]
    arguments: dict[str, Any]


class _Recorder(nn.Module):
    """Stands for a decoder layer: notes what it is called with, and hands the residual stream on."""

    def __init__(self, layer: nn.Module, in_tuples: bool) -> None:
        super().__init__()
        self._in_tuples = in_tuples
        self.arguments: dict[str, Any] = {}
        vars(self).update(asked_of(layer))
        self._names = list(inspect.signature(layer.forward).parameters)[1:]  # behind the residual stream

    def forward(self, hidden_states: Tensor, *args: Any, **arguments: Any) -> Any:
        named = dict(zip(self._names, args, strict=False)) | arguments
        self.arguments = {name: value for name, value in named.items() if name != "past_key_values"}
        return (hidden_states, None) if self._in_tuples else hidden_states


@torch.no_grad()
def layer_arguments(model: Any, tokens: Tensor, dtype: torch.dtype, device: torch.device) -> list[dict[str, Any]]:
    """Keyword arguments (mask, position embeddings) that the model hands to each decoder layer, for one window.

    No layer runs.

    Args:
        model: The dense one.
        tokens: Token ids, shape (windows, length).
        dtype: Of the residual stream.
        device: Where the layers run.
    """
    recorders = [_Recorder(layer, family_of(model).in_tuples) for layer in layers_of(model)]
    _run_stack(model, recorders, tokens[:1], dtype, device)
    return [recorder.arguments for recorder in recorders]


@torch.no_grad()
def first_inputs(model: Any, batches: Sequence[Tensor], dtype: torch.dtype, place: Placement) -> list[Tensor]:
    """Residual stream before the first layer in a dtype, where it waits: one tensor (batch, time, hidden) a batch."""
    return [_run_stack(model, (), batch, dtype, place.device).to(place.home) for batch in batches]


def _run_stack(
    model: Any, layers: Sequence[nn.Module], tokens: Tensor, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """What a model's stack gives, before its last norm, with other layers in it.

    What stands before the layers, such as the norm of BERT's embeddings, computes in the dtype too.
    """
    stack, names = twin(stack_of(model)), family_of(model).stack
    put_module(stack, names.layers, nn.ModuleList())
    stack = own_modules(stack)  # whose parameters may be others for a while
    put_module(stack, names.layers, nn.ModuleList(layers))
    if names.norm is not None:
        put_module(stack, names.norm, nn.Identity())
    narrow = {name: parameter for name, parameter in stack.named_parameters() if parameter.dtype != dtype}
    if model.main_input_name == "input_ids":
        embedding = model.get_input_embeddings()  # which may wait on the host
        inputs = {"inputs_embeds": embedding(tokens.to(embedding.weight.device)).to(device, dtype)}
        narrow = {name: parameter for name, parameter in narrow.items() if parameter is not embedding.weight}
    else:
        inputs = whole(model, tokens.to(device))
    wide = {name: parameter.to(dtype) for name, parameter in narrow.items()}
    states: Tensor = functional_call(stack, wide, (), {**inputs, "use_cache": False}).last_hidden_state
    return states.to(dtype)


def gather(
    model: Any,
    tokens: Tensor,
    *,
    forward_dtype: torch.dtype,
    place: Placement,
    batch_size: int = 8,
    head_gram: Tensor | None = None,
) -> Iterator[LayerStatistics]:
    """Statistics of each decoder layer of the dense model, in order.

    The residual stream of all tokens is kept before and after a layer (2 · tokens × hidden values); every layer runs
    once over it, as a copy in float32 on the device, with autocast to `forward_dtype` and float32 accumulation. No more
    than one layer is copied at a time: whoever deletes what is yielded has its memory back before the next is made,
    which a decorated generator would not allow.

    Args:
        model: The dense one, all but its layers in their place; these may be in any dtype, and on the CPU.
        tokens: Token ids, shape (windows, length).
        forward_dtype: `torch.bfloat16` where the device is fast at it, else `torch.float32`.
        place: Where layers run, and where residual streams wait.
        batch_size: Windows of a forward pass.
        head_gram: To have `LayerStatistics.read`: zeros of shape (hidden, hidden), which become the same of what the LM
            head reads, if there is one.

    Raises:
        UserError: Activations are not finite, or none differ from zero; the former also of the first logits.
    """
    arguments = layer_arguments(model, tokens, torch.float32, place.device)
    states = first_inputs(model, tokens.split(batch_size), torch.float32, place)
    for index, layer in enumerate(layers_of(model)):
        wide = copy.deepcopy(layer).to(place.device, torch.float32)
        statistics, states = _learned(
            index, wide, family_of(model), states, arguments[index], forward_dtype, read=head_gram is not None
        )
        yield statistics
        del wide, statistics  # before the next ones are made
    head = model.get_output_embeddings()
    if head is not None:
        with torch.no_grad():
            logits = head(norm_of(model)(states[0][:1].to(head.weight)))
            _require_finite({"what its head gives, the logits,": logits}, forward_dtype)
            if head_gram is not None:
                for state in states:
                    rows = norm_of(model)(state.to(head.weight)).flatten(0, -2).float()
                    head_gram.addmm_(rows.T, rows, alpha=1 / tokens.numel())


@torch.no_grad()
def _learned(
    index: int,
    layer: Any,
    family: Architecture,
    states: list[Tensor],
    arguments: dict[str, Any],
    dtype: torch.dtype,
    *,
    read: bool,
) -> tuple[LayerStatistics, list[Tensor]]:
    """What a layer's pass over the text teaches, and the residual streams after it."""
    blocks = [(kind, layer.get_submodule(each.module), each) for kind, each in family.blocks.items()]
    device, hidden = next(layer.parameters()).device, states[0].shape[-1]
    grams = {
        kind: InputGram(block.get_submodule(each.output), output_weight(block, each).shape[1], device)
        for kind, block, each in blocks
        if each.output
    }
    reads = {
        kind: InputGram(block.get_submodule(each.inputs[0].name), hidden, device)
        for kind, block, each in blocks
        if read and each.inputs
    }
    mixture = experts_of(layer, family.mlp)
    experts = ExpertHook(mixture) if mixture is not None else None
    after = list[Tensor]()
    count, cosine = 0, torch.zeros((), device=device)
    try:
        for waiting in states:
            state = waiting.to(device)
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                output = stream_of(layer(state, **arguments)).float()
            cosine += F.cosine_similarity(state, output, dim=-1).sum()
            count += state.shape[0] * state.shape[1]
            after.append(output.to(waiting.device))
    finally:
        for gram in (*grams.values(), *reads.values()):
            gram.close()
        if experts is not None:
            experts.close()
    totals, ahead = ({kind: gram.total.div_(count) for kind, gram in each.items()} for each in (grams, reads))
    told = {f"its {family.blocks[kind].output} reads": total for kind, total in totals.items()}
    places = {**told, "it hands on": cosine}
    _require_finite({f"in layer {index} what {place}": each for place, each in places.items()}, dtype)
    said = {place: total.diagonal() for place, total in told.items()}
    if experts is not None:
        said["its experts add"] = experts.sums.energy
    for place, values in said.items():
        if not values.any():
            raise UserError(
                "Expected activations of the dense model that say something of the calibration text, but all that in "
                f"layer {index} {place} is 0, though all weights are finite: some before it are 0, or "
                f"so large that norms lose what they give: {_ADVICE}."
            )
    sums = experts.sums if experts is not None else None
    return LayerStatistics(index, layer, totals, sums, ahead, 1 - cosine.item() / count, states, arguments), after


def _require_finite(places: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Refuses activations that are not finite, in the first of these places where what is made of them is not."""
    for place, values in places.items():
        if not torch.stack(values.aminmax()).isfinite().all():  # values.isfinite() makes copies
            advice = (
                "float16 ends at 65,504; set model.dtype=bfloat16 or float32" if dtype == torch.float16 else _ADVICE
            )
            raise UserError(
                f"Expected finite activations of the dense model on the calibration text, but {place} is not, in "
                f"{str(dtype).removeprefix('torch.')}, though all weights are: {advice}."
            )
