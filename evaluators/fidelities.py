"""The questions that a search asks about a candidate, from the free ones to held-out text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from evaluators.base import Evaluator, MeasureEvaluator, together
from evaluators.cost import cost_measure
from evaluators.divergence import Divergence
from evaluators.latency import LatencyTable
from evaluators.refit_error import refit_error_measure
from space.candidate import Candidate
from space.errors import UserError
from space.supernet import Supernet


@dataclass(frozen=True)
class Fidelities:
    """Evaluators, cheapest question first.

    Attributes:
        free: The metrics of any candidate that need no forward pass, each a sum over blocks.
        search: The rungs of the search; the last one, the full fidelity, is named `search`.
        heldout: On text that no rung has seen.
    """

    free: Callable[[Candidate], Mapping[str, float]]
    search: tuple[Evaluator, ...]
    heldout: Evaluator


def fidelities(
    supernet: Supernet,
    table: LatencyTable,
    search: Tensor,
    heldout: Tensor,
    *,
    context: int,
    batch: int,
    rungs: Sequence[int],
    cache_bytes: int,
) -> Fidelities:
    """Makes them; nothing is run yet.

    Args:
        supernet: The model.
        table: Latencies of its blocks.
        search: Token windows of the search, shape (windows, length).
        heldout: Token windows of the final scores, shape (windows, length).
        context: Tokens at which KV-cache bytes and attention's share of the work are counted.
        batch: Windows of a forward pass.
        rungs: Leading windows of `search` that each cheaper fidelity looks at, cheapest first.
        cache_bytes: Memory for residual streams, over all rungs.

    Raises:
        UserError: The rungs do not rise from 1 to less than all windows.
    """
    sizes = [*rungs, len(search)]
    if sizes != sorted(set(sizes)) or sizes[0] < 1:
        raise UserError(
            f"evaluators.rungs: expected rising numbers from 1 to below data.search_windows={len(search)}, "
            f"got {list(rungs)}. Change one of them; rungs=[] leaves the full fidelity alone."
        )
    costs = [cost_measure(supernet.spec, context=context), table.measure()]

    def rung(windows: int) -> Evaluator:
        divergence = Divergence(supernet, search[:windows], batch=batch, cache_bytes=cache_bytes // len(sizes))
        name = "search" if windows == len(search) else f"search-{windows}"
        return MeasureEvaluator(name, [*costs, divergence.measure()])

    return Fidelities(
        free=together([*costs, refit_error_measure(supernet)]),
        search=tuple(rung(windows) for windows in sizes),
        heldout=MeasureEvaluator("heldout", [Divergence(supernet, heldout, batch=batch).heldout_measure()]),
    )
