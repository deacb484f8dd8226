"""Latency of a candidate as a sum over its blocks, from relative timings of whole models."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.base import Measure
from evaluators.latency.labels import label, numbers_of, option_of
from evaluators.latency.table_error import UNCHECKED, TableError
from evaluators.latency.workload import Workload
from space.candidate import Candidate, Option
from space.errors import UserError
from space.spec import ModelSpec, mlp_units
from space.task import CAUSAL_LM, TASKS

LATENCY_FILE = "latency.json"  # of a run
BASE = "base"  # the part of a model that is no block: embedding, last norm and LM head
NOISY = 0.1  # spread of the rounds above which a table is not to be believed
# What lines say of the blocks of a kind: many of one option, and what tells the options apart.
_WORDS = {
    "attention": ("attention blocks of {} heads in {} groups", "heads/groups"),
    "mlp": ("MLP blocks of {} {units}", "{units}"),
}
UNCAPTURED = "uncaptured"  # in a device's description: why steps on it are no CUDA graphs
_PRIOR = 0.05 / 0.15  # of the fit: standard deviation of a timing's relative error, over that of a factor about 1


@dataclass(frozen=True)
class PhaseTable:
    """Milliseconds of every option of a block in one phase, and of what is left without blocks.

    Attributes:
        dense_ms: The dense model, end to end: the unit of all others, which were timed relative to it.
        base_ms: Embedding, final norm and LM head.
        block_ms: By kind of block, a key of `space.candidate.KINDS`: from an option to milliseconds of one block.
        spread: Interquartile range of a model's times over the rounds, as a fraction of their median; the median over
            all models. Large when the machine was busy with other work.
        rounds: The fewest that a model was timed in; 0 in a table of before this was said. One has no spread.
        fit: What `base` and the blocks of each kind were multiplied by, from designs timed whole; empty before that.
        error: Of designs that were not in the fit.
        head_ms: Of a prefill's LM head alone for the `last` position and for `all`; empty where that was not timed.
        vocabulary_ms: What stands in place of `base_ms` with a smaller vocabulary, by its tokens.
        outer_ms: The same with other types of the embedding and of the LM head, by both.
    """

    dense_ms: float
    base_ms: float
    block_ms: Mapping[str, Mapping[Option, float]]
    spread: float
    fit: Mapping[str, float] = field(default_factory=dict)
    error: TableError = UNCHECKED
    head_ms: Mapping[str, float] = field(default_factory=dict)
    rounds: int = 0
    vocabulary_ms: Mapping[int, float] = field(default_factory=dict)
    outer_ms: Mapping[Option, float] = field(default_factory=dict)

    def parts(self, candidate: Candidate) -> dict[str, float]:
        """Milliseconds of `base`, and of all blocks of each kind.

        Raises:
            KeyError: An option, a vocabulary or a type is not in the table.
        """
        base = self.vocabulary_ms[candidate.vocabulary] if candidate.vocabulary else self.base_ms
        if any(outer := (candidate.embedding_type, candidate.head_type)):
            base = self.outer_ms[outer]
        blocks = {
            kind: sum(options[shape.option(kind)] for shape in candidate.layers if shape.keeps(kind))
            for kind, options in self.block_ms.items()
        }
        return {BASE: base, **blocks}

    @property
    def said_spread(self) -> str:
        """The spread in words, with the rounds where these are known."""
        if self.rounds == 1:
            return "a single round"
        return f"spread between{f' {self.rounds}' * bool(self.rounds)} rounds {self.spread:.1%}"

    def ms(self, candidate: Candidate) -> float:
        """The sum of its parts."""
        return sum(self.parts(candidate).values())

    def fitted(self, designs: Mapping[Candidate, float]) -> PhaseTable:
        """The table whose base and kinds of blocks are multiplied to come near to designs that were timed whole.

        Least squares of the relative errors with non-negative factors, drawn towards 1.

        Args:
            designs: To milliseconds, end to end.
        """
        from scipy.optimize import nnls  # slow to import, and only wanted here

        rows = [[part / ms for part in self.parts(candidate).values()] for candidate, ms in designs.items()]
        prior = _PRIOR * np.eye(1 + len(self.block_ms))
        factors, _ = nnls(np.vstack([*rows, prior]), np.concatenate([np.ones(len(rows)), prior.sum(axis=1)]))
        fit = dict(zip((BASE, *self.block_ms), map(float, factors), strict=True))
        blocks = {
            kind: {option: ms * fit[kind] for option, ms in options.items()} for kind, options in self.block_ms.items()
        }
        few = {count: ms * fit[BASE] for count, ms in self.vocabulary_ms.items()}
        outer = {types: ms * fit[BASE] for types, ms in self.outer_ms.items()}
        base = self.base_ms * fit[BASE]
        return replace(self, base_ms=base, vocabulary_ms=few, outer_ms=outer, block_ms=blocks, fit=fit)

    def checked(self, designs: Mapping[Candidate, float]) -> PhaseTable:
        """The table with its error on designs that were timed whole."""
        return replace(self, error=TableError.of([self.ms(candidate) for candidate in designs], [*designs.values()]))


@dataclass(frozen=True)
class LatencyTable:
    """The tables of a workload's phases.

    Attributes:
        phases: By name.
        device: Of the measurement: name, dtype, threads, engine and the like.
        workload: What was timed.
        model: The model's shapes, see `model_shapes`; empty where they are not known.
    """

    phases: Mapping[str, PhaseTable]
    device: Mapping[str, Any]
    workload: Workload
    model: Mapping[str, Any] = field(default_factory=dict)

    def values(self, candidate: Candidate) -> dict[str, float]:
        """The workload's metrics of a candidate.

        Raises:
            KeyError: An option is not in the table.
        """
        return self.workload.values({name: table.ms(candidate) for name, table in self.phases.items()})

    @property
    def dense_ms(self) -> dict[str, float]:
        """Milliseconds of the dense model, end to end, by phase."""
        return {name: table.dense_ms for name, table in self.phases.items()}

    @property
    def digest(self) -> str:
        """16 hex digits over the measurement; evaluations that used different tables cannot be compared."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def measure(self) -> Measure:
        """The workload's metrics of a candidate."""
        return Measure(self.workload.metrics, self.values)

    def remarks(self) -> list[str]:
        """What was measured, in lines, and warnings where it is not to be believed."""
        device, lines = self.device, []
        for name, table in self.phases.items():
            phase, shapes = self.workload.phases[name], sum(map(len, table.block_ms.values()))
            positions = {"last": "the last position", "all": "all positions"}[self.workload.logits]
            writes = TASKS[self.model.get("task", CAUSAL_LM)].writes
            logits = f" with the logits of {positions}" if phase.kind == "prefill" and writes else ""
            lines.append(
                f"{name} of {phase.batch_size} x {phase.tokens} tokens{logits} in {device['engine']} on "
                f"{device['device']}, {device['dtype']}, {device['threads']} threads: {shapes} block shapes, "
                f"{table.said_spread}; "
                f"against designs timed whole: {table.error if self.workload.check else 'not checked'}"
            )
            if table.head_ms:
                last, whole = table.head_ms["last"], table.head_ms["all"]
                slower = last > whole and self.workload.logits == "last"
                lines.append(
                    f"{name}: the LM head alone takes {last:.2f} ms for the last position and {whole:.2f} ms for all"
                    + slower * "; a product of one row is slow here, and latency.logits=all times the other"
                )
            if table.spread > NOISY:
                lines.append(
                    f"WARNING: expected a spread of at most {NOISY:.0%}; other work on this machine makes these "
                    "latencies meaningless, and a run keeps its table. Stop that work, then start a new run."
                )
            elif table.error.median > self.workload.error_limit:
                lines.append(
                    f"WARNING: expected a median error of at most latency.error_limit={self.workload.error_limit:.0%}; "
                    "the search may miss designs. The front is ranked by end-to-end timings."
                )
        if UNCAPTURED in device:
            lines.append(
                f"WARNING: expected a model that a CUDA graph can hold, got {device[UNCAPTURED]}. Its launches by "
                "Python are timed as well, which may take longer than the GPU does: widths then hardly change a time."
            )
        return lines

    def profile(self, dense: Candidate) -> list[str]:
        """Where the dense model's time goes by kind of block, in lines, and what is to be had from each."""
        lines = []
        for name, table in self.phases.items():
            parts = table.parts(dense)
            whole = sum(parts.values())
            lines.append(f"{name}: {whole:.2f} ms, sum of blocks (end to end {table.dense_ms:.2f} ms)")
            units, plain = mlp_units(self.model).rpartition(" ")[2], (int(self.model.get("plain_channels", 0)),)
            wholes = {kind: Counter(shape.option(kind) for shape in dense.layers) for kind in table.block_ms}
            words = {kind: _blocks(kind, counts, {plain: "channels"}, units) for kind, counts in wholes.items()}
            for part, ms in parts.items():
                without, said = whole / max(whole - ms, 1e-9), words.get(part, "embedding, last norm and LM head")
                lines.append(f"  {said:<48} {ms:8.2f} ms {ms / whole:5.0%}   {without:.2f} x as fast without")
            for kind, options in table.block_ms.items():
                largest = options[min(wholes[kind])] or 1
                rows = sorted(options.items(), reverse=True)
                shares = ", ".join(f"{label(kind, option)} {ms / largest:.0%}" for option, ms in rows)
                narrow = "/channels of each" * (kind == "mlp" and any("/" in label(kind, each) for each in options))
                lines.append(f"  time of these blocks by {_WORDS[kind][1].format(units=units)}{narrow}: {shares}")
        return lines

    def require_device(self, here: Mapping[str, Any], path: Path) -> None:
        """Checks that it was measured as timings now would be.

        Args:
            here: The device as it is now.
            path: Where the table is stored.

        Raises:
            UserError: On another device, or with other threads or another engine.
        """
        unlike = [
            f"  {name}: {self.device.get(name)} -> {here.get(name)}"
            for name in dict.fromkeys([*self.device, *here])
            if self.device.get(name) != here.get(name)
        ]
        if unlike:
            raise UserError(
                f"The latencies of {path} were measured otherwise than they would be now (then -> now):\n"
                + "\n".join(unlike)
                + "\nTimes of both cannot be compared. Go on as it was (the same device and versions; latency.threads "
                "or OMP_NUM_THREADS for threads), or start a new run with another run_dir."
            )

    def to_json(self) -> str:
        """The table as JSON text."""
        phases = {
            name: asdict(table)
            | {
                "block_ms": {
                    kind: {label(kind, option): ms for option, ms in options.items()}
                    for kind, options in table.block_ms.items()
                }
            }
            for name, table in self.phases.items()
        }
        for phase in phases.values():
            phase["outer_ms"] = {"/".join(map(str, types)): ms for types, ms in phase["outer_ms"].items()}
            for name in ("vocabulary_ms", "outer_ms"):
                if not phase[name]:  # as tables of before are, whose digests stay
                    del phase[name]
        stored = {"device": dict(self.device), "model": dict(self.model), "workload": asdict(self.workload)}
        return json.dumps(stored | {"phases": phases}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> LatencyTable:
        """The inverse of `to_json`.

        Raises:
            UserError: The text is not such a table.
        """
        try:
            stored = json.loads(text)
            phases = {
                name: PhaseTable(
                    **phase
                    | {
                        "block_ms": {
                            kind: {option_of(kind, text): ms for text, ms in options.items()}
                            for kind, options in phase["block_ms"].items()
                        },
                        "error": TableError(**phase["error"]),
                        "vocabulary_ms": {int(n): ms for n, ms in phase.get("vocabulary_ms", {}).items()},
                        "outer_ms": {numbers_of(text): ms for text, ms in phase.get("outer_ms", {}).items()},
                    }
                )
                for name, phase in stored["phases"].items()
            }
            return cls(phases, stored["device"], Workload(**stored["workload"]), stored.get("model", {}))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise UserError(
                f"Expected a latency table, got text that does not read as one ({type(error).__name__}: {error}). "
                "Start a new run; evaluations that used this table cannot be compared with others."
            ) from error


def _blocks(kind: str, counts: Mapping[Option, int], special: Mapping[Option, str], units: str) -> str:
    """How many blocks of a kind there are of each option, in words; of some options in units of their own."""
    each = [_WORDS[kind][0].format(*option, units=special.get(option, units)) for option in sorted(counts)]
    return " and ".join(f"{counts[option]} {told}" for option, told in zip(sorted(counts), each, strict=True))


def model_shapes(spec: ModelSpec) -> dict[str, Any]:
    """What the times of a model depend on: all but its weights, by which alone digests differ."""
    return {fact: value for fact, value in spec.identity.items() if fact != "digest"}
