"""Where a front's times were measured, which end-to-end times it goes by, and what these say of the latency table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import pandas as pd

from evaluators.base import TIMED, TIMED_ON, Metric
from evaluators.latency.table_error import UNCHECKED, TableError
from evaluators.metrics import end_to_end, metric_named
from search.archive import Archive, by_fidelity
from search.run.front import dense_row, is_dense
from search.run.offered import confirmed
from space.candidate import Candidate


@dataclass(frozen=True)
class Measured:
    """The devices behind a front's numbers, as clocks describe them.

    Attributes:
        table: That of the latency table, which the search went by.
        end_to_end: That of the end-to-end times; None where there are no such times.
    """

    table: Mapping[str, Any]
    end_to_end: Mapping[str, Any] | None

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> Self:
        """What `summary.json` says; a run of before this was said was timed where its table was, and one at work is."""
        table = summary.get("latency", {})
        return cls(table, summary.get("end_to_end", table))

    @property
    def untimed(self) -> bool:
        """Whether no point is timed end to end."""
        return self.end_to_end is None

    @property
    def elsewhere(self) -> bool:
        """Whether end-to-end times are of another device, engine or so than the table."""
        return self.end_to_end is not None and any(self.table.get(k) != v for k, v in self.end_to_end.items())

    @property
    def words(self) -> str:
        """What has to be said beside the numbers; empty where all are of one device."""
        if self.end_to_end is None:
            return f"latencies are sums of a table measured on {self.table['device']}, and no point is timed end to end"
        if not self.elsewhere:
            return ""
        timed, table = _named(self.end_to_end, self.table), _named(self.table, self.end_to_end)
        return f"end-to-end times were measured on {timed}; the latency table, by which the search went, on {table}"

    @property
    def sentence(self) -> str:
        """The words with a capital."""
        return self.words[:1].upper() + self.words[1:]

    @property
    def devices(self) -> dict[str, str]:
        """Where which latency was measured, for people."""
        other: Mapping[str, Any] = {} if self.end_to_end is None else self.end_to_end
        timed = {} if self.end_to_end is None else {"end-to-end times of": _named(self.end_to_end, self.table)}
        return {"latency table of": _named(self.table, other), **timed}

    def error(self, frame: pd.DataFrame) -> TableError:
        """How far the table is from the end-to-end times of some points; where these are `elsewhere`, of speed-ups.

        Args:
            frame: Their table, the dense model in it.
        """
        if self.untimed:
            return UNCHECKED
        dense, timed = dense_row(frame), frame.dropna(subset=["latency_e2e_ms"])
        timed = timed[~is_dense(timed)]  # which is the unit
        pairs = [
            (timed[name] / (dense[name] if self.elsewhere else 1.0)).tolist()
            for name in ("latency_ms", "latency_e2e_ms")
        ]
        return TableError.of(*pairs)

    def against(self, error: TableError) -> str:
        """An error in a line."""
        what = "speed-ups of the latency table against those" if self.elsewhere else "latency table against"
        return f"{what} end to end: {error}"

    def remarks(self, error: TableError) -> list[str]:
        """What a person should know of a front's times, in lines."""
        if self.untimed:
            return [f"WARNING: {self.words}"]
        return [self.sentence, self.against(error)] if self.elsewhere else [self.against(error)]


def error_of(summary: Mapping[str, Any]) -> TableError:
    """The table's error that `summary.json` has."""
    error = summary["latency_table_error"]
    return TableError(**{name: math.nan if value is None else value for name, value in error.items()})


def error_facts(error: TableError) -> dict[str, float | None]:
    """The inverse of `error_of`."""
    return {name: None if math.isnan(value) else value for name, value in asdict(error).items()}


def told_apart(measured: pd.DataFrame, objectives: Sequence[Metric]) -> list[str]:
    """The keys of the points that end-to-end times leave worth having, see `search.run.offered.confirmed`.

    Args:
        measured: The table of all, with these times; a point without is left out.
        objectives: The search's, of which latencies give way to what end-to-end timing has for them.
    """

    def timed(metric: Metric) -> Metric:
        name = end_to_end(metric.name, measured.columns) if metric.role == "latency" else None
        return metric_named(name) if name else metric

    return [str(key) for key in confirmed(measured, [timed(metric) for metric in objectives])["key"]]


def kept_times(archive: Archive, candidates: Sequence[Candidate], dense: Candidate) -> str | None:
    """The fidelity of the last end-to-end times that an archive has of all of some candidates; None where it has not.

    Args:
        archive: Of a run whose own device times nothing.
        candidates: Of whom all have to be asked, though they may have failed.
        dense: One of them, which may not.
    """
    for fidelity, answers in reversed(by_fidelity(archive.evaluations()).items()):
        timed = fidelity == TIMED or fidelity.startswith(f"{TIMED}-")
        if timed and all(each.key in answers for each in candidates) and answers[dense.key].status == "ok":
            return fidelity
    return None


def device_of(archive: Archive, fidelity: str) -> dict[str, Any]:
    """The device that end-to-end times of a fidelity are of, as its clock describes it."""
    if fidelity == TIMED:
        return dict(archive.settings["timed"])
    return dict(next(e.facts[TIMED_ON] for e in archive.evaluations(fidelity) if e.status == "ok"))


def _named(device: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """A device with its engine, and with what tells it from another besides."""
    told = [str(device[name]) for name in ("device", "engine") if name in device]
    unlike = [name for name in device if name in other and device[name] != other[name]]
    return ", ".join([*told, *(f"{name} {device[name]}" for name in unlike if name not in ("device", "engine"))])
