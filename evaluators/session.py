"""A run's model, text, supernet, latency table and evaluators, wired in one place and made when first asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property, partial
from math import inf
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from evaluators.amounts import CALIBRATION, TABLE
from evaluators.applicable import require_of_model
from evaluators.base import OPTIMISED, Evaluator, Metric
from evaluators.data.places import Part, TextPlace
from evaluators.data.reading import read_data, read_stream
from evaluators.data.splits import TokenSplits
from evaluators.data.stream import TokenStream
from evaluators.fidelities import Fidelities, fidelities
from evaluators.latency.bench import LatencyBench
from evaluators.latency.clocks import cpu_name
from evaluators.latency.elsewhere import text_of
from evaluators.latency.end_to_end import EndToEnd
from evaluators.latency.table import LatencyTable
from evaluators.paths import Paths, Show, Stage, unseen
from evaluators.settings import ACC, Settings
from evaluators.settled import Settled
from evaluators.tasks.harness import Harness
from evaluators.training.healing import Healer
from evaluators.training.recipes import Distillation, Healing
from evaluators.training.tuning import Tuning, finished_model, make_tuning
from evaluators.vocabulary.of_run import RunVocabulary, require_levels
from space.candidate import Candidate
from space.files import kept
from space.formats.gguf.sizes import tensor_bytes
from space.models.loading import LoadedModel, load_model
from space.space import SearchSpace
from space.spec import ModelSpec
from space.supernet.preparation import prepared_supernet
from space.supernet.store import is_prepared
from space.supernet.supernet import Supernet


class Session:
    """Everything that a process needs to evaluate or export subnets of a run; each part is made once, on first use.

    Settings and paths can be pickled, so that another process opens the same session: it answers alike.
    """

    def __init__(self, settings: Settings, paths: Paths, stage: Stage = unseen, minutes: float = inf) -> None:
        """See `open`."""
        self.paths, self._given, self._stage, self._minutes = paths, settings, stage, minutes
        self.settle()

    @classmethod
    def open(cls, settings: Settings, paths: Paths, stage: Stage = unseen, minutes: float = inf) -> Self:
        """A session in which nothing is made yet.

        Args:
            settings: What the run was told.
            paths: Where it lives.
            stage: Opened around what takes long: by a title, a context that gives a function to tell of progress with.
            minutes: Of the run, of which calibration and the latency table may take a part each, see `amounts`.
        """
        return cls(settings, paths, stage, minutes)

    def settle(self) -> None:
        """Takes in what minutes have come to, where the run's directory says so; what depends on it is made anew."""
        file = self.paths.budget
        self.amounts = Settled.read(file).amounts if file.exists() else None
        self.settings = self._given if self.amounts is None else self._given.settled(self.amounts)
        for part in ("healer", "fidelities"):
            self.__dict__.pop(part, None)

    def check(self) -> None:
        """Makes what costs no calibration, so that mistakes in the settings show before anything is written.

        Raises:
            UserError: There is a mistake in the settings of the model, the text, the space or the tasks.
        """
        _ = self.space, self.harness
        require_levels(self.loaded, self.space.vocabulary)
        for part in self.settings.text.windows:
            self.windows(part)

    @cached_property
    def loaded(self) -> LoadedModel:
        """The dense model as it comes from disk, with its tokenizer; the supernet is made of it in place.

        Raises:
            UserError: See `load_model`.
        """
        check = partial(require_of_model, self.settings)
        return load_model(**asdict(self.settings.model), lengths=self.settings.lengths, check_spec=check)

    @property
    def spec(self) -> ModelSpec:
        """The facts of the dense model."""
        return self.loaded.spec

    @property
    def dense(self) -> Candidate:
        """The dense model as a candidate."""
        return Candidate.dense(self.spec)

    @cached_property
    def text(self) -> TokenSplits:
        """The text, in the model's tokens.

        Raises:
            UserError: It can not be had, or is not the one that the settings want.
        """
        return read_data(self.settings.text, self.loaded, self.settings.text.digest)

    def windows(self, part: Part) -> Tensor:
        """The run's windows of a part of the text, shape (windows, length); raises UserError where it has less text."""
        return self.text.blocks(part, self.settings.text.windows[part], self.settings.text.length)

    def stream(self, place: TextPlace, seed: int) -> TokenStream:
        """Text for longer training, see `training_stream`; of the run's own place where the given one has no path."""
        own = self.settings.text
        return read_stream(place, own, self.text, self.loaded, own.length, seed)

    @cached_property
    def space(self) -> SearchSpace:
        """The designs that the settings allow, whatever they cost; for errors see `SearchSpace`."""
        return self.settings.space(self.spec)

    @cached_property
    def vocabulary(self) -> RunVocabulary | None:
        """The vocabularies that designs choose from, see `RunVocabulary.of`; None where all have the whole one."""
        place, counts = self.settings.text, self.space.vocabulary
        return RunVocabulary.of(self.loaded, counts, place, self.text, self.paths, self._stage) if counts else None

    @cached_property
    def supernet(self) -> Supernet:
        """The supernet; the text is read only where it has to be calibrated anew."""
        preparation, place, layers = self.settings.supernet, self.paths.supernet, self.spec.layers
        with (unseen if is_prepared(place) else self._stage)("calibration and order of units") as show:
            tokens, on_layer = lambda: self.windows("calibration"), lambda index: show(index + 1, layers)
            channels = [option[0] for option in self.space.block_options.get("mlp", ())]
            how = place, on_layer, self.paths.cache, channels
            read, seconds = bool(self.space.types), CALIBRATION * 60 * self._minutes
            return prepared_supernet(preparation, self.loaded, tokens, *how, read=read, seconds=seconds)

    @cached_property
    def bench(self) -> LatencyBench:
        """What times subnets.

        Raises:
            UserError: See `LatencyBench`.
        """
        return LatencyBench(self.supernet, self.settings.latency, self.paths.cache / "latency", self.loaded.tokenizer)

    @cached_property
    def table(self) -> LatencyTable:
        """The run's latency table, measured where it has none, or that of another device that it was told of.

        Raises:
            UserError: See `LatencyTable.require_device`, and `text_of`.
        """
        workload, path, file = self.settings.latency, self.settings.latency.table, self.paths.latency
        if path is not None:
            text = kept(file, lambda: text_of(Path(path), workload, self.spec, self.space))
            return LatencyTable.from_json(text)
        table = LatencyTable.from_json(kept(file, self._measured))
        table.require_device(self.bench.clock.describe(), file)
        return table

    def _measured(self) -> str:
        workload, space, bench = self.settings.latency, self.space, self.bench
        designs = space.samples(workload.fit + workload.check)
        with self._stage("latency table") as show:
            seconds = TABLE * 60 * self._minutes
            how = space.block_options, designs, show, seconds, space.vocabulary, space.types
            return bench.table(*how).to_json()

    @cached_property
    def tuning(self) -> Tuning | None:
        """What follows the cached refit; None where nothing does, and where the supernet is healed instead."""
        settings = self.settings
        if self.healer:  # a refit to the dense residual stream would take back some of what healing has taught
            return None
        own = settings.distillation if isinstance(settings.distillation, Distillation) else None
        recipe = settings.correction, own
        return make_tuning(
            settings.training, self.supernet, self.paths.run_dir, *recipe, lambda: self.text, settings.text.length
        )

    @cached_property
    def healer(self) -> Healer | None:
        """What heals the supernet; None where nothing does."""
        settings = self.settings.distillation
        if self.settings.training == "off" or not isinstance(settings, Healing):
            return None
        supernet, windows, marks = lambda: self.supernet, self._training_windows, lambda: self.text.marks
        stage = partial(self._stage, "healing the supernet")
        return Healer(supernet, settings, windows, marks, self.paths.healed, stage)

    def newest(self) -> Supernet:
        """The supernet whose subnets are exported.

        Raises:
            UserError: It is to be healed, and is not yet.
        """
        return self.healer.supernet() if self.healer else self.supernet

    def _training_windows(self, count: int) -> Tensor:
        length = self.settings.text.length
        return self.text.blocks("calibration", min(count, self.text.room("calibration", length)), length)

    def finished_model(self, candidate: Candidate, *, own: bool = False) -> Any:
        """A candidate's model as it is exported, but with the whole vocabulary; see `finished_model` of `tuning`."""
        return finished_model(self.newest(), self.tuning, candidate.blocks, own=own)

    @cached_property
    def harness(self) -> Harness:
        """The tasks of lm-eval.

        Raises:
            UserError: See `Harness`.
        """
        return Harness(self.loaded.tokenizer, self.settings.tasks)

    def trained_facts(self) -> dict[str, object]:
        """What a model card should say of what a subnet has learned."""
        parts = [part.facts() for part in (self.healer, self.tuning) if part]
        return {name: fact for facts in parts for name, fact in facts.items()}

    @cached_property
    def fidelities(self) -> Fidelities:
        """The evaluators of the search and of its end; for errors see `fidelities`, and `table`."""
        settings = self.settings.evaluators
        return fidelities(
            self.supernet,
            self.table,
            self.windows("search"),
            self.windows("heldout"),
            self.tuning,
            self.healer,
            self.harness.measure if self._optimises_tasks else None,
            self.vocabulary,
            partial(tensor_bytes, self.loaded.model.config, self.spec) if self.space.types else None,
            context=settings.context,
            batch_size=settings.together,
            parts=settings.fidelities,
            cache_bytes=settings.cache_bytes,
            ended=self.text.end is not None,
        )

    @property
    def trained(self) -> tuple[Evaluator, ...]:
        """The fidelities that a search asks of trained subnets."""
        return self.fidelities.trained if self.settings.training == "loop" else ()

    @property
    def healed(self) -> Evaluator | None:
        """The fidelity of the healed supernet's subnets, if it is healed."""
        return self.fidelities.trained[0] if self.healer else None

    @property
    def ladder(self) -> tuple[Evaluator, ...]:
        """The fidelities of the search, cheapest first: of subnets as they are, then of trained ones."""
        return (*self.fidelities.search, *self.trained)

    @property
    def objectives(self) -> list[Metric]:
        """What the front is about, see `evaluators.settings.Settings.metrics`."""
        return self.settings.metrics

    def timed(self, show: Show = lambda done, of: None) -> EndToEnd | None:
        """Times subnets end to end, and tells of the rounds; None where the latency table is of another device."""
        rounds, path = (self.amounts.front_rounds if self.amounts else None), self.settings.latency.table
        return EndToEnd(self.bench, self.table.dense_ms, show, rounds=rounds) if path is None else None

    def task_evaluators(self, show: Show = lambda done, of: None) -> Sequence[Evaluator]:
        """One evaluator a task, of subnets as they are exported."""
        return self.harness.evaluators(self.newest(), self.tuning, show)

    def identity(self) -> dict[str, Any]:
        """What the numbers of an archive depend on, ready for JSON: two archives that differ in it are never mixed."""
        device = self.loaded.device
        identity = {
            "model": self.spec.to_json(),
            "text": self.text.digest,
            "dtype": str(self.loaded.dtype),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
            "timed": dict(self.table.device),
            "latency": self.table.digest,
            "fidelities": [evaluator.fidelity for evaluator in self.ladder],
        }
        identity |= {"vocabulary": self.vocabulary.digest} if self.vocabulary else {}
        return identity | ({OPTIMISED: self.harness.fidelities} if self._optimises_tasks else {})

    @property
    def _optimises_tasks(self) -> bool:
        return ACC.name in self.settings.objectives
