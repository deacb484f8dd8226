"""The corrective refit: output projections fit in sequence, on the subnet's own inputs, to the dense residual stream.

The refit of `space.supernet.compensation` looks at one block at a time, on the dense model's inputs; behind a few cut
blocks the residual stream has drifted away from those. Here each kept output projection, in order, is fit to

    argmin_W ‖(h_dense − h_subnet) − W X_subnet‖² + λ ‖W − W_refit‖²

with h_dense the dense model's residual stream after the block, h_subnet the subnet's before it, and X_subnet what the
subnet itself hands to the projection. So a block makes up for its own cut and for what those before it left. Tokens are
not weighted: the few of huge norm steer attention, and a fit that counts each token by the inverse of its norm makes a
model worse than its refit does.

Hidden states of all calibration tokens are kept for the dense model and for each candidate (tokens × hidden values of
the supernet's dtype), and the projection's inputs for one block of one candidate, on the host where layers wait
there. Each block runs alone, as a layer of
which nothing else is left, so that masks, rotary embeddings and norms are transformers' own. Where both blocks of a
layer read the stream before it, the second one is handed that, and adds to what the first one has added to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from space.candidate import KINDS, Candidate, LayerShape
from space.errors import UserError
from space.models.architectures import architecture_of
from space.models.block_layout import BlockLayout
from space.models.pruned import block_scale
from space.models.stack import stream_of
from space.supernet.calibration import first_inputs, layer_arguments
from space.supernet.correction import Correction
from space.supernet.corrective_step import Moments, corrective_step
from space.supernet.hooks import captured
from space.supernet.modules import put_module
from space.supernet.supernet import Supernet
from space.supernet.units import upright

States = list[Tensor]  # residual stream, one tensor (windows, time, hidden) a batch


@dataclass
class _Subnet:
    """A candidate on its way through the layers; `states` is None as long as it is the dense model.

    `before` is what they were before the layer, where its blocks all read that.
    """

    candidate: Candidate
    states: States | None = None
    before: States | None = None
    weights: list[dict[str, Tensor]] = field(default_factory=list)


@torch.no_grad()
def correct(
    supernet: Supernet,
    candidates: Sequence[Candidate],
    tokens: Tensor,
    *,
    damping: float = 0.001,
    batch_size: int = 8,
    on_layer: Callable[[int], None] = lambda index: None,
) -> list[Correction]:
    """Corrections of candidates, in their order; they share the dense model's pass over the text.

    Args:
        supernet: The model.
        candidates: What to correct.
        tokens: Token ids, shape (windows, length), of at least two windows. More text is better, and costs time in
            proportion.
        damping: Pull towards the refit, as a fraction of the mean diagonal of the inputs' Gram matrix. A little is
            enough: what keeps little text from doing harm is the length of the steps.
        batch_size: Windows of a forward pass.
        on_layer: Called with the number of each layer that is done.

    Raises:
        UserError: There are fewer than two windows, or the damping is not above 0.
        ValueError: A candidate does not fit the model.
    """
    if tokens.ndim < 2 or len(tokens) < 2:
        raise UserError(f"Correction: expected at least 2 windows of tokens, got shape {tuple(tokens.shape)}.")
    if damping <= 0:
        raise UserError(f"Correction: expected damping above 0, got {damping}.")
    for candidate in candidates:
        supernet.view(candidate)  # refuses what does not fit before the work begins
    model, whole = supernet.model, Candidate.dense(supernet.spec)
    batches = tokens.split(min(batch_size, -(-len(tokens) // 2)))
    arguments = layer_arguments(model, tokens, model.dtype, supernet.place.device)
    dense = first_inputs(model, batches, model.dtype, supernet.place)
    subnets = [_Subnet(candidate, dense if supernet.strength(candidate) else None) for candidate in candidates]
    parallel = supernet.spec.parallel
    for index in range(supernet.spec.layers):
        before = dense if parallel else None
        for subnet in subnets:
            subnet.weights.append({})
            subnet.before = subnet.states if parallel else None
        for kind in KINDS:
            block = _Block(supernet, index, kind, arguments[index])
            target = block.outputs(_alone(whole.layers[index], kind), 0.0, before or dense, dense)
            for subnet in subnets:
                shape = _alone(subnet.candidate.layers[index], kind)
                if subnet.states is None and shape != _alone(whole.layers[index], kind):
                    subnet.states = dense  # the first cut: until here it was the dense model
                if subnet.states is not None and not shape.gone:
                    strength = supernet.strength(subnet.candidate)
                    read = subnet.before or before or subnet.states
                    if not block.fits:
                        subnet.states = block.outputs(shape, strength, read, subnet.states)
                        continue
                    weight, subnet.states = block.fit(shape, strength, read, subnet.states, target, damping)
                    subnet.weights[index][kind] = weight
                elif subnet.states is not None and not subnet.candidate.layers[index].gone:
                    subnet.states = block.passed(supernet.strength(subnet.candidate), subnet.states)
            dense = target
        on_layer(index)
    return [Correction(subnet.candidate, tuple(subnet.weights)) for subnet in subnets]


def _alone(shape: LayerShape, kind: str) -> LayerShape:
    """The layer's shape with nothing but the block of that kind."""
    return LayerShape.of(**{kind: shape.option(kind)})


class _Block:
    """One block of one layer: the dense one, and each candidate's."""

    def __init__(self, supernet: Supernet, index: int, kind: str, arguments: dict[str, Any]) -> None:
        self._supernet = supernet
        self._place = supernet.place
        self._index = index
        self._kind = kind
        self._arguments = arguments
        self._whole = Candidate.dense(supernet.spec).layers[index]
        self._layout: BlockLayout = architecture_of(supernet.spec.family).blocks[kind]

    @property
    def fits(self) -> bool:
        """Whether it has an output projection to fit, which a mixture of experts has not."""
        return bool(self._layout.output)

    def outputs(self, shape: LayerShape, strength: float, read: States, states: States) -> States:
        """The residual stream after the block as it is at a shape, which reads one stream and adds to another."""
        layer = self._alone(shape, strength)
        after: States = []
        for waiting, state in zip(read, states, strict=True):
            (inside,) = self._here(waiting)
            output = stream_of(layer(inside, **self._arguments))
            if read is not states:
                (here,) = self._here(state)
                output = (here.float() + output.float() - inside.float()).to(state.dtype)
            after.append(output.to(self._place.home))
        return after

    def fit(
        self, shape: LayerShape, strength: float, read: States, states: States, target: States, damping: float
    ) -> tuple[Tensor, States]:
        """The corrected output projection of a candidate's block, and the candidate's residual stream after it.

        Batches take turns as one of two halves of the text, which check each other.

        Args:
            shape: The layer with nothing but this block.
            strength: Of the candidate, see `Supernet.strength`.
            read: The candidate's residual stream that the block reads.
            states: The one that it adds to.
            target: The dense model's residual stream after its block.
            damping: As for `correct`.
        """
        layer = self._alone(shape, strength)
        projection: nn.Linear = layer.get_submodule(self._layout.path(self._layout.output))
        norm: nn.Module | None = layer.get_submodule(self._layout.after) if self._layout.after else None
        refit = upright(self._layout, projection.weight)
        bias, scale = projection.bias, block_scale(layer)
        inputs = [self._input(layer, state) for state in read]
        halves = Moments.zeros_for(refit), Moments.zeros_for(refit)
        for number, waiting in enumerate(zip(inputs, states, target, strict=True)):
            rows, state, goal = self._here(*waiting)
            output = F.linear(rows, refit, bias)
            residual = goal.float() - self._after(state, output, norm, scale).float()
            rows = rows.float() * scale
            if norm is not None and not self._layout.scaled:
                rows /= _divisor(norm, state + output if self._layout.adds else output)
            halves[number % 2].add(rows.flatten(0, 1), residual.flatten(0, 1), refit.dtype)
        change = corrective_step(halves, damping).change
        if norm is not None:
            change *= _inverse_gain(norm, refit)
        weight = (refit.float() + change).to(refit.dtype)
        after: States = []
        for inside, before in zip(inputs, states, strict=True):
            rows, state = self._here(inside, before)
            after.append(self._after(state, F.linear(rows, weight, bias), norm, scale).to(self._place.home))
        return weight.to(self._place.home), after

    def passed(self, strength: float, states: States) -> States:
        """The residual stream after the block where it is gone: through the norm that stays, if one does."""
        if self._layout.staying is None:
            return states
        norm = self._supernet.layer(self._index, self._whole, strength).get_submodule(self._layout.staying)
        return [norm(*self._here(state)).to(self._place.home) for state in states]

    def _alone(self, shape: LayerShape, strength: float) -> Any:
        """The layer at a shape that has this block alone, without norms that stay where the others are gone."""
        layer = self._supernet.layer(self._index, shape, strength)
        for kind, layout in architecture_of(self._supernet.spec.family).blocks.items():
            if layout.staying and kind != self._kind:
                put_module(layer, layout.staying, nn.Identity())
        return layer

    def _after(self, state: Tensor, output: Tensor, norm: nn.Module | None, scale: float) -> Tensor:
        """The residual stream after the block, by that before it and what the projection gives."""
        if self._layout.adds:
            state, output = torch.zeros_like(state), state + output
        normed: Tensor = output if norm is None else norm(output)
        return state + (normed if scale == 1 else normed * scale)

    def _here(self, *waiting: Tensor) -> list[Tensor]:
        return [tensor.to(self._place.device) for tensor in waiting]

    def _input(self, layer: Any, state: Tensor) -> Tensor:
        """What the block hands to its output projection, shape (windows, time, columns)."""
        output = self._layout.path(self._layout.output)
        with captured(layer, output) as rows:
            layer(state.to(self._place.device), **self._arguments)
        return rows[output].view(*state.shape[:2], -1).to(self._place.home)  # some run MLPs on tokens in one row


def _divisor(norm: nn.Module, read: Tensor) -> Tensor:
    """What a norm behind the projection divides each token of what it reads by, float32, shape (windows, time, 1)."""
    wide = read.float()
    if isinstance(norm, nn.LayerNorm):
        wide = wide - wide.mean(-1, keepdim=True)
    return wide.pow(2).mean(-1, keepdim=True).sqrt().clamp_min(torch.finfo(torch.float32).tiny)


def _inverse_gain(norm: nn.Module, weight: Tensor) -> Tensor:
    """From a change behind a norm to one before it: one over the norm's weights, held back where they are small.

    To first order, and with what each token is divided by as it is, a norm multiplies by its weights.

    Returns:
        Factors, float32, shape (hidden, 1).
    """
    gain: Tensor
    if isinstance(norm, nn.LayerNorm):
        gain = norm.weight.float()[:, None]
    else:
        gain = norm(weight.new_ones(1, len(weight))).float().T  # ones have a root mean square of one
    return gain / (gain.square() + 0.01 * gain.square().mean())
