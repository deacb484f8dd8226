"""The fidelities of a search, from the free metrics of a candidate to held-out text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from evaluators.base import Evaluator, Measure, MeasureEvaluator, ModelOf
from evaluators.comparison import Comparison
from evaluators.comparisons import comparison
from evaluators.cost import cost_measure, vocabulary_measure
from evaluators.latency.table import LatencyTable
from evaluators.refit_error import refit_error_measure
from evaluators.training.healed import HealedEvaluator
from evaluators.training.healing import Healer
from evaluators.training.tuned import TunedEvaluator
from evaluators.training.tuning import Tuning
from evaluators.vocabulary.judged import BitsPerByte
from evaluators.vocabulary.of_run import RunVocabulary
from evaluators.window_sizes import window_sizes
from space.candidate import Candidate
from space.supernet.supernet import Supernet

CORRECTED = "corrected"  # the fidelity of subnets that are refit in sequence, and not trained


@dataclass(frozen=True)
class Fidelities:
    """Evaluators, the cheapest first.

    Attributes:
        free: The metrics of any candidate that need no forward pass, each a sum over blocks.
        search: Those of the search without training; the last one is named `search`.
        trained: Those of subnets after what follows their cached refit, if anything does: healing of all, training of
            each by itself, or its corrective refit alone.
        heldout: On text that no other fidelity has seen.
        tuned: The same of subnets as they are exported, after all tuning; None when there is none.
        forget: Gives back the memory of residual streams that candidates shared.
    """

    free: Callable[[Candidate], Mapping[str, float]]
    search: tuple[Evaluator, ...]
    trained: tuple[Evaluator, ...]
    heldout: Evaluator
    tuned: Evaluator | None
    forget: Callable[[], None]


def fidelities(
    supernet: Supernet,
    table: LatencyTable,
    search: Tensor,
    heldout: Tensor,
    tuning: Tuning | None = None,
    healer: Healer | None = None,
    accuracy: Callable[[ModelOf, float], Measure] | None = None,
    vocabulary: RunVocabulary | None = None,
    file_bytes: Callable[[Candidate], int] | None = None,
    *,
    context: int,
    batch_size: int,
    parts: Sequence[float],
    cache_bytes: int,
    ended: bool = False,
) -> Fidelities:
    """Makes them; nothing is run yet.

    Args:
        supernet: The model.
        table: Latencies of its blocks.
        search: Token windows of the search, shape (windows, length).
        heldout: Token windows of the final scores, shape (windows, length).
        tuning: What follows the cached refit, if anything.
        healer: What heals the supernet, if anything; then `trained` and `heldout` are about the healed one.
        accuracy: What is asked besides of models, on a part of the items, such as `Harness.measure`; every fidelity
            asks it on the part of the items that it sees of the text, trained ones on all.
        vocabulary: What candidates choose their vocabularies from, if they do; they are judged in bits a byte then.
        file_bytes: See `evaluators.cost.cost_measure`.
        context: Tokens at which KV-cache bytes and attention's share of the work are counted.
        batch_size: Windows of a forward pass.
        parts: The part of every window of `search`, from its start, that each cheaper fidelity looks at; cheapest
            first. The beginnings of many windows rank designs better than as many tokens of few whole ones.
        cache_bytes: Memory for residual streams, over all fidelities.
        ended: Whether windows end with a token that ends a text; their parts do then, too.

    Raises:
        UserError: The parts do not rise from above 0 to below 1, or give less than two tokens, or the text is too short
            for the tuning.
    """
    length = supernet.spec.tokens_of(search.shape)
    sizes = window_sizes(parts, length)
    element = supernet.model.dtype.itemsize
    free_costs = cost_measure(supernet.spec, context=context, bytes_per_element=element, file_bytes=file_bytes)
    costs = [free_costs, table.measure()]
    costs += [vocabulary_measure(supernet.spec)] if vocabulary else []

    def judge(supernet: Supernet, windows: Tensor, **settings: Any) -> Comparison | BitsPerByte:
        if vocabulary is None:
            return comparison(supernet, windows, batch_size=batch_size, **settings)
        return BitsPerByte(supernet, vocabulary, windows, batch_size=batch_size, **settings)

    made = WeakSet[Comparison | BitsPerByte]()

    def divergence(supernet: Supernet, tokens: int) -> Comparison | BitsPerByte:
        text = beginning(search, tokens, length, ended=ended)
        new = judge(supernet, text, cache_bytes=cache_bytes // len(sizes))
        made.add(new)
        return new

    def forget() -> None:
        for each in made:
            each.forget()

    def extra(model_of: ModelOf, part: float = 1.0) -> list[Measure]:
        return [accuracy(model_of, part)] if accuracy else []

    names = [*(f"search-{tokens}" for tokens in sizes[:-1]), "search"]
    divergences = {name: divergence(supernet, tokens) for name, tokens in zip(names, sizes, strict=True)}
    unseen = judge(supernet, heldout, subnets=healer.supernet if healer else None)
    trained: tuple[Evaluator, ...] = ()
    final: Evaluator | None = None
    if healer is not None:

        def healed(supernet: Supernet) -> list[Measure]:
            return [*costs, divergence(supernet, length).measure(), *extra(supernet.view)]

        trained = (HealedEvaluator(healer, MeasureEvaluator("", healed(supernet)).metrics, healed, forget),)

    if tuning is not None:
        tuning.check_text()
        stages = {f"distilled-{tokens}": stage for stage, tokens in enumerate(tuning.stage_tokens, start=1)}
        stages = stages or {CORRECTED: 0}
        full = divergences["search"]
        trained += tuple(
            TunedEvaluator(
                name, tuning, stage, lambda model_of: [*extra(model_of), full.measure(model_of)], costs=costs
            )
            for name, stage in stages.items()
        )
        final = TunedEvaluator(
            "tuned", tuning, max(stages.values()), lambda model_of: [unseen.heldout_measure(model_of)]
        )
    measures = [*costs, refit_error_measure(supernet)]

    def free(candidate: Candidate) -> Mapping[str, float]:
        return {name: value for measure in measures for name, value in measure.values(candidate).items()}

    return Fidelities(
        free=free,
        search=tuple(
            MeasureEvaluator(name, [*costs, each.measure(), *extra(supernet.view, size / length)])
            for size, (name, each) in zip(sizes, divergences.items(), strict=True)
        ),
        trained=trained,
        heldout=MeasureEvaluator("heldout", [unseen.heldout_measure()]),
        tuned=final,
        forget=forget,
    )


def beginning(windows: Tensor, tokens: int, length: int, *, ended: bool = False) -> Tensor:
    """What a fidelity sees: the first tokens of each window of text, or as large a part of the images.

    Args:
        windows: Token ids (windows, length), or images (images, channels, height, width).
        tokens: Of a window.
        length: Of a whole one.
        ended: Whether windows end with a token that ends a text; then their beginnings do, too.
    """
    if windows.ndim > 2:
        return windows[: max(1, len(windows) * tokens // length)]
    return torch.cat([windows[:, : tokens - ended], windows[:, length - ended :]], 1)
