"""Timing of subnets on the device: block shapes for the latency table, and whole models beside the dense one.

A block's entry is measured in place: the time of a whole stack with that shape in every layer that can have it and the
other block gone, less the empty stack's, a layer's share. Weights thus stream from memory as they do in use, and no
block is timed in a warm cache of its own. Types of matrices are timed at the full width alone: a narrower block gains
by one as much, in part, as the full one does. All times are relative to the dense model's, timed in turns with the
others: a machine that becomes slower or faster changes neither ratios nor ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

from evaluators.latency.clocks import Clock, OnTimings, TorchClock
from evaluators.latency.labels import label, outer_types, timed_options, times_of_all
from evaluators.latency.llamacpp_clock import LlamaCppClock
from evaluators.latency.table import NOISY, LatencyTable, PhaseTable, model_shapes
from evaluators.latency.timings import Timings
from evaluators.latency.vllm_clock import VLLMClock
from evaluators.latency.workload import Phase, Workload
from space.candidate import Candidate, LayerShape, Option
from space.spec import ModelSpec
from space.supernet.supernet import Supernet
from space.types import GGUF_TYPES

OFF = 0.3  # of a median error, beyond which a table stands for nothing, such as that of a process that stood still


def make_clock(supernet: Supernet, workload: Workload, tokenizer: Any) -> Clock:
    """The clock that `latency.engine` names."""
    if workload.engine == "llamacpp":
        return LlamaCppClock(supernet, workload, tokenizer)
    if workload.engine == "vllm":
        return VLLMClock(supernet, workload)
    return TorchClock(supernet, workload)


class LatencyBench:
    """Times a supernet's subnets as they will be served."""

    def __init__(
        self, supernet: Supernet, workload: Workload, cache: Path | None = None, tokenizer: Any = None
    ) -> None:
        """Times nothing yet.

        Args:
            supernet: The model.
            workload: What is timed.
            cache: Directory of timings that are used again and kept, if the workload wants that; None for none.
            tokenizer: The model's, which engines other than torch want with it.

        Raises:
            UserError: The engine is not installed, or cannot run the model.
        """
        self.workload = workload
        self.clock = make_clock(supernet, workload, tokenizer)
        self._spec = supernet.spec
        self._cache = cache if workload.cache else None

    def table(
        self,
        block_options: Mapping[str, Sequence[Option]],
        designs: Sequence[Candidate] = (),
        on_timings: OnTimings = lambda done, of: None,
        seconds: float = inf,
        vocabulary: Sequence[int] = (),
        types: Sequence[int] = (),
    ) -> LatencyTable:
        """The latency table of a space; what the cache knows is not measured again.

        Args:
            block_options: By kind of block, `attention` among them: the options that leave something.
            designs: That are timed whole: the workload's `fit` first ones to correct the table, the rest to check it.
            on_timings: Called with how many timings of a phase are done, of how many.
            seconds: That all phases may take together; the workload's rounds are fewer where they take longer.
            vocabulary: Counts of tokens that designs may have in place of all.
            types: Of matrices, but the first, that designs may have.
        """
        spec, layers = self._spec, self._spec.layers
        # One layer must keep attention, so the empty stack is one block of the smallest shape, taken off again below.
        smallest = min(block_options["attention"])
        standing = f"on {_name('attention', smallest)}"  # times are kept by name from run to run; smallest ones differ
        models = {standing: _stack(spec, "attention", None, smallest)}
        measured = {kind: timed_options(kind, options) for kind, options in block_options.items()}
        for kind, options in measured.items():
            if kind == "attention":
                models |= {_name(kind, option): _stack(spec, kind, option, None) for option in options}
            else:
                models |= {
                    f"{_name(kind, option)} {standing}": _stack(spec, kind, option, smallest) for option in options
                }
        few = {count: f"vocabulary {count} {standing}" for count in vocabulary}
        models |= {name: replace(models[standing], vocabulary=count) for count, name in few.items()}
        # the look-up of a row takes no time in any type: of an embedding that is no head the head's times hold
        logits = {number: f"logits in {GGUF_TYPES[number]} {standing}" for number in types}
        models |= {name: _with_logits(models[standing], number, self._spec) for number, name in logits.items()}
        models |= {design.key: design for design in designs}
        phases = {}
        for name, phase in self.workload.phases.items():
            timings, worth_keeping = self._timings(phase, models, on_timings, seconds / len(self.workload.phases))
            dense_ms = timings.dense_ms or 0.0
            times = {model: dense_ms * timings.ratio(model) for model in models}
            # a single layer cannot be told from the rest of the model
            block = (times[_name("attention", smallest)] - times[standing]) / (layers - 1) if layers > 1 else 0.0
            base = max(0.0, times[standing] - block)
            block_ms = {
                kind: {
                    option: max(0.0, (times[_name(kind, option)] - base) / layers)
                    if kind == "attention"
                    else max(
                        0.0,
                        (times[f"{_name(kind, option)} {standing}"] - times[standing])
                        / len(_places(spec, kind, option)),
                    )
                    for option in options
                }
                for kind, options in measured.items()
            }
            table = PhaseTable(
                dense_ms=dense_ms,
                base_ms=base,
                block_ms={kind: times_of_all(kind, block_ms[kind], options) for kind, options in block_options.items()},
                spread=timings.spread(),
                rounds=timings.rounds,
                head_ms=timings.head_ms,
                vocabulary_ms={count: max(0.0, base + times[few[count]] - times[standing]) for count in vocabulary},
                outer_ms={
                    (embedding, head): max(0.0, base + times[logits.get(number, standing)] - times[standing])
                    for embedding, head in outer_types(self._spec, types)
                    for number in [embedding if self._spec.tied_embeddings else head]
                },
            )
            whole = {design: times[design.key] for design in designs}
            fit, check = ({d: whole[d] for d in part} for part in _split(designs, self.workload.fit))
            phases[name] = table.fitted({Candidate.dense(self._spec): dense_ms, **fit}).checked(check)
            if worth_keeping and not phases[name].error.median > OFF:  # not a number where no design was timed whole
                timings.save()
        return LatencyTable(phases, self.clock.describe(), self.workload, model_shapes(self._spec))

    def ratios(
        self,
        candidates: Sequence[Candidate],
        on_timings: OnTimings = lambda done, of: None,
        rounds: int | None = None,
    ) -> tuple[list[dict[str, list[float]]], dict[str, float]]:
        """End-to-end times of each candidate relative to the dense model's, by phase and round, measured now.

        Args:
            candidates: What to time.
            on_timings: Called with how many timings of a phase are done, of how many.
            rounds: In which they take turns; None for the workload's `front_rounds`.

        Returns:
            Them, and the dense model's median milliseconds by phase.
        """
        models = {str(index): candidate for index, candidate in enumerate(candidates)}
        ratios: list[dict[str, list[float]]] = [{} for _ in candidates]
        dense_ms = {}
        for name, phase in self.workload.phases.items():
            rows, dense_ms[name] = self.clock.session(phase, models, rounds or self.workload.front_rounds, on_timings)
            for index in range(len(candidates)):
                ratios[index][name] = rows[str(index)]
        return ratios, dense_ms

    def _timings(
        self, phase: Phase, models: Mapping[str, Candidate], on_timings: OnTimings, seconds: float
    ) -> tuple[Timings, bool]:
        """Timings that have all of some models; the missing ones are measured.

        They are new and worth keeping for later runs unless the machine is busy, or there was no time for all rounds.
        """
        about = {
            **self.clock.describe(),
            "model": model_shapes(self._spec),
            # as files of before name it, so that their timings stay of use
            "phase": {"kind": phase.kind, "batch": phase.batch_size, "tokens": phase.tokens},
            "cold": self.workload.cold,
        }
        timings = Timings.of(about, self._cache)
        missing = {name: candidate for name, candidate in models.items() if name not in timings.ratios}
        if not missing and timings.dense_ms is not None:
            return timings, False
        rows, dense_ms = self.clock.session(phase, missing, self.workload.rounds, on_timings, seconds)
        timings.ratios |= rows
        timings.dense_ms = timings.dense_ms or dense_ms
        timings.head_ms = timings.head_ms or self.clock.head_ms(phase)
        whole = all(len(ratios) == self.workload.rounds for ratios in rows.values())
        return timings, whole and timings.spread() <= NOISY


def _with_logits(candidate: Candidate, number: int, spec: ModelSpec) -> Candidate:
    """A candidate with what gives the logits in a type."""
    if spec.tied_embeddings:
        return replace(candidate, embedding_type=number)
    return replace(candidate, head_type=number)


def _name(kind: str, option: Option) -> str:
    """Of the stack of a block's option."""
    return f"{kind} {label(kind, option)}"


def _places(spec: ModelSpec, kind: str, option: Option) -> list[int]:
    """The layers whose block of a kind can have an option."""
    plain = kind == "mlp" and spec.is_plain(option[0])
    return [layer for layer in range(spec.layers) if kind != "mlp" or (layer in spec.plain_mlps) == plain]


def _stack(spec: ModelSpec, kind: str, option: Option | None, carrier: Option | None) -> Candidate:
    """A model with nothing but such blocks, if any, in all layers that can have them.

    The first layer has an attention block besides, if there is a `carrier`.
    """
    places = _places(spec, kind, option) if option is not None else []
    blocks = [{kind: option} if option is not None and layer in places else {} for layer in range(spec.layers)]
    if carrier is not None:
        blocks[0] = blocks[0] | {"attention": carrier}
    return Candidate(tuple(LayerShape.of(**options) for options in blocks))


def _split(designs: Sequence[Candidate], first: int) -> tuple[Sequence[Candidate], Sequence[Candidate]]:
    return designs[:first], designs[first:]
