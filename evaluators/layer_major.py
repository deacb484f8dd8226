"""Final hidden states of many candidates on fixed text, where each layer of the model is brought to the device once.

Layers of a model that is larger than its device wait on the host (`space.supernet.placement`). To bring all of them for
one candidate after another would take as long as to compute with them, or longer. So the candidates of a generation go
through the layers together: a layer comes once, their streams pass it, each in its own shape, and wait on the host for
the next one. Candidates with the same first layers share their stream. The operations of a candidate are those of a
whole forward pass, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from evaluators.prefix import PrefixForward
from space.candidate import Candidate, LayerShape
from space.models.stack import stream_of
from space.supernet.calibration import first_inputs, layer_arguments
from space.supernet.supernet import Supernet

_Path = tuple[float, tuple[LayerShape, ...]]  # which of the supernet's weights, and the layers before the stream


class LayerMajorForward:
    """Runs candidates on fixed windows of text, several in one pass through the layers.

    Attributes:
        layers_run: Layers that were run so far, summed over batches of windows; those that are gone count too.
        layers_total: Layers that there would have been to run if no candidates had shared a stream.
    """

    def __init__(self, supernet: Supernet, tokens: Tensor, *, batch_size: int) -> None:
        """Runs nothing yet.

        Args:
            supernet: The model.
            tokens: Token ids, shape (windows, length).
            batch_size: Windows of a forward pass.
        """
        self._supernet = supernet
        self.batches: tuple[Tensor, ...] = tokens.to(supernet.place.device).split(batch_size)
        self._done: dict[Candidate, list[Tensor]] = {}
        self.layers_run = self.layers_total = 0

    def ahead(self, candidates: Sequence[Candidate]) -> None:
        """Runs candidates together; their hidden states wait until they are asked for, or until the next such call.

        Raises:
            ValueError: A candidate does not fit the model.
        """
        self._done = {}  # gives memory back before it is taken
        self._done = self._run(list(dict.fromkeys(candidates)))

    def __call__(self, candidate: Candidate) -> Iterator[Tensor]:
        """See `evaluators.prefix.PrefixForward`; alone, where it was not run together with others."""
        states = self._done.pop(candidate, None)
        if states is None:
            states = self._run([candidate])[candidate]
        norm = self._supernet.norm(self._supernet.strength(candidate))
        return (norm(state.to(self._supernet.place.device)) for state in states)

    def forget(self) -> None:
        """Gives the memory of hidden states back."""
        self._done = {}

    def _run(self, candidates: Sequence[Candidate]) -> dict[Candidate, list[Tensor]]:
        """The last residual streams of candidates, on the host."""
        supernet, place = self._supernet, self._supernet.place
        strengths = {candidate: supernet.strength(candidate) for candidate in candidates}
        for candidate in candidates:
            supernet.require_fit(candidate)
        model = supernet.model
        arguments = layer_arguments(model, self.batches[0], model.dtype, place.device)
        first = first_inputs(model, self.batches, model.dtype, place)
        streams: dict[_Path, list[Tensor]] = {(strength, ()): first for strength in strengths.values()}
        for index in range(supernet.spec.layers):
            after: dict[_Path, list[Tensor]] = {}
            for candidate, strength in strengths.items():
                before, shape = candidate.layers[:index], candidate.layers[index]
                path = strength, (*before, shape)
                if path in after:
                    continue
                states = streams[strength, before]
                if not shape.gone:
                    states = self._passed(index, shape, strength, states, arguments[index])
                after[path] = states
                self.layers_run += len(self.batches)
            self.layers_total += len(candidates) * len(self.batches)
            streams = after
        return {candidate: streams[strength, candidate.layers] for candidate, strength in strengths.items()}

    def _passed(
        self, index: int, shape: LayerShape, strength: float, states: Sequence[Tensor], arguments: dict[str, Any]
    ) -> list[Tensor]:
        """Residual streams after a layer, which is on the device no longer than this takes."""
        place, layer = self._supernet.place, self._supernet.layer(index, shape, strength)
        return [stream_of(layer(state.to(place.device), **arguments)).to(place.home) for state in states]


def forward_of(
    supernet: Supernet, tokens: Tensor, *, batch_size: int, cache_bytes: int
) -> PrefixForward | LayerMajorForward:
    """What runs a supernet's candidates: several in a pass through the layers where these wait on the host.

    Args:
        supernet: The model.
        tokens: Token ids, shape (windows, length).
        batch_size: Windows of a forward pass.
        cache_bytes: Memory for residual streams that candidates share, of a model that is on its device.
    """
    if supernet.place.streamed:
        return LayerMajorForward(supernet, tokens, batch_size=batch_size)
    return PrefixForward(supernet, tokens, batch_size=batch_size, cache_bytes=cache_bytes)
