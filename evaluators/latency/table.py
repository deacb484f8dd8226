"""Latency of a candidate as a sum over its blocks, from relative timings of whole models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import nnls

from evaluators.base import Measure
from evaluators.latency.table_error import UNCHECKED, TableError
from evaluators.latency.workload import Workload
from space.candidate import Candidate
from space.errors import UserError

NOISY = 0.1  # spread of the rounds above which a table is not to be believed
_PRIOR = 0.05 / 0.15  # of the fit: standard deviation of a timing's relative error, over that of a factor about 1


@dataclass(frozen=True)
class PhaseTable:
    """Milliseconds of every block shape in one phase, and of what is left without blocks.

    Attributes:
        dense_ms: The dense model, end to end: the unit of all others, which were timed relative to it.
        base_ms: Embedding, final norm and LM head.
        attention_ms: (query_heads, kv_heads) to milliseconds of one attention block.
        mlp_ms: Channels to milliseconds of one MLP block.
        spread: Interquartile range of a model's times over the rounds, as a fraction of their median; the median over
            all models. Large when the machine was busy with other work.
        fit: What base, attention and MLP were multiplied by, from designs timed whole.
        error: Of designs that were not in the fit.
    """

    dense_ms: float
    base_ms: float
    attention_ms: Mapping[tuple[int, int], float]
    mlp_ms: Mapping[int, float]
    spread: float
    fit: tuple[float, float, float] = (1.0, 1.0, 1.0)
    error: TableError = UNCHECKED

    def parts(self, candidate: Candidate) -> tuple[float, float, float]:
        """Base, attention blocks and MLP blocks.

        Raises:
            KeyError: A shape is not in the table.
        """
        attention = sum(self.attention_ms[s.query_heads, s.kv_heads] for s in candidate.layers if s.kv_heads)
        return self.base_ms, attention, sum(self.mlp_ms[s.mlp_channels] for s in candidate.layers if s.mlp_channels)

    def ms(self, candidate: Candidate) -> float:
        """The sum of its parts."""
        return sum(self.parts(candidate))

    def fitted(self, designs: Mapping[Candidate, float]) -> PhaseTable:
        """The table whose base, attention and MLP are multiplied to come near to designs that were timed whole.

        Least squares of the relative errors with non-negative factors, drawn towards 1.

        Args:
            designs: To milliseconds, end to end.
        """
        rows = [[part / ms for part in self.parts(candidate)] for candidate, ms in designs.items()]
        prior = _PRIOR * np.eye(3)
        factors, _ = nnls(np.vstack([*rows, prior]), np.concatenate([np.ones(len(rows)), prior.sum(axis=1)]))
        base, attention, mlp = (float(factor) for factor in factors)
        return replace(
            self,
            base_ms=self.base_ms * base,
            attention_ms={shape: ms * attention for shape, ms in self.attention_ms.items()},
            mlp_ms={channels: ms * mlp for channels, ms in self.mlp_ms.items()},
            fit=(base, attention, mlp),
        )

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
    """

    phases: Mapping[str, PhaseTable]
    device: Mapping[str, Any]
    workload: Workload

    def values(self, candidate: Candidate) -> dict[str, float]:
        """The workload's metrics of a candidate.

        Raises:
            KeyError: A shape is not in the table.
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
        """The workload's metrics, as a question about a candidate."""
        return Measure(self.workload.metrics, self.values)

    def remarks(self) -> list[str]:
        """What was measured, in lines, and warnings where it is not to be believed."""
        device, lines = self.device, []
        for name, table in self.phases.items():
            phase, shapes = self.workload.phases[name], len(table.attention_ms) + len(table.mlp_ms)
            lines.append(
                f"{name} of {phase.batch} x {phase.tokens} tokens in {device['engine']} on {device['device']}, "
                f"{device['dtype']}, {device['threads']} threads: {shapes} block shapes, "
                f"spread between rounds {table.spread:.1%}; "
                f"against designs timed whole: {table.error if self.workload.check else 'not checked'}"
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
        return lines

    def profile(self, dense: Candidate) -> list[str]:
        """Where the dense model's time goes by kind of block, in lines, and what is to be had from each."""
        lines = []
        for name, table in self.phases.items():
            parts = table.parts(dense)
            whole, layers, shape = sum(parts), len(dense.layers), dense.layers[0]
            lines.append(f"{name}: {whole:.2f} ms, sum of blocks (end to end {table.dense_ms:.2f} ms)")
            for part, ms in zip(
                (
                    "embedding, last norm and LM head",
                    f"{layers} attention blocks of {shape.query_heads} heads in {shape.kv_heads} groups",
                    f"{layers} MLP blocks of {shape.mlp_channels} channels",
                ),
                parts,
                strict=True,
            ):
                without = whole / max(whole - ms, 1e-9)
                lines.append(f"  {part:<48} {ms:8.2f} ms {ms / whole:5.0%}   {without:.2f} x as fast without")
            attention = [(_label(shape), ms) for shape, ms in sorted(table.attention_ms.items(), reverse=True)]
            mlp = [(str(channels), ms) for channels, ms in sorted(table.mlp_ms.items(), reverse=True)]
            for levels, found in (("heads/groups", attention), ("channels", mlp)):
                shares = ", ".join(f"{level} {ms / (found[0][1] or 1):.0%}" for level, ms in found)
                lines.append(f"  time of these blocks by {levels}: {shares}")
        return lines

    def to_json(self) -> str:
        """The table as JSON text."""
        phases = {
            name: asdict(table)
            | {
                "attention_ms": {_label(shape): ms for shape, ms in table.attention_ms.items()},
                "mlp_ms": {str(channels): ms for channels, ms in table.mlp_ms.items()},
            }
            for name, table in self.phases.items()
        }
        return json.dumps({"device": dict(self.device), "workload": asdict(self.workload), "phases": phases}, indent=1)

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
                        "attention_ms": {_pair(shape): ms for shape, ms in phase["attention_ms"].items()},
                        "mlp_ms": {int(channels): ms for channels, ms in phase["mlp_ms"].items()},
                        "fit": tuple(phase["fit"]),
                        "error": TableError(**phase["error"]),
                    }
                )
                for name, phase in stored["phases"].items()
            }
            return cls(phases, stored["device"], Workload(**stored["workload"]))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise UserError(
                f"Expected a latency table, got text that does not read as one ({type(error).__name__}: {error}). "
                "Start a new run; evaluations that used this table cannot be compared with others."
            ) from error


def _label(shape: tuple[int, int]) -> str:
    return f"{shape[0]}/{shape[1]}"


def _pair(shape: str) -> tuple[int, int]:
    heads, groups = shape.split("/")
    return int(heads), int(groups)
