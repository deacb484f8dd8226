"""The end of a search: its front scored on held-out text, timed end to end, and kept as tables and a summary."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from evaluators.base import Evaluator, Metric
from evaluators.latency.table_error import TableError
from evaluators.metrics import BEFORE_TUNING, HELDOUT, HELDOUT_BEFORE_TUNING
from search.archive import Archive
from search.protocol import some_of
from search.run.directory import CONFIRMED_FILE, SUMMARY_FILE
from search.run.front import points_table, write_front_csv
from search.run.front_files import front_facts, write_tables
from search.run.measured import Measured, device_of, kept_times, told_apart
from search.run.members import Members, Show, evaluate
from search.run.offered import confirmed, thinned, within
from search.run.recommended import Advice, Recommend
from search.run.samples import samples_summary
from search.run.versions import versions
from space.candidate import Candidate
from space.files import write_whole

REFERENCE_POINTS = 8


@dataclass(frozen=True)
class Finish:
    """What a run ends with.

    Attributes:
        front: The front's table, the dense model's row in it.
        table_error: The latency table's error over all timed points.
        advice: Which of its points a person is told to take.
        dropped: Front members of the search that held-out text or end-to-end timing showed not to be worth offering.
        agreement: Kendall's tau over the pruned members between a quality and the one that is dearer to ask: of the
            search's text and held-out text, and of held-out text before and after the corrective refit.
        measured: Where its times are from.
    """

    front: pd.DataFrame
    advice: Advice
    table_error: TableError
    dropped: int
    agreement: Mapping[str, float]
    measured: Measured

    def numbers(self) -> dict[str, float]:
        """The facts beside the front, by name; NaN where there is none."""
        error = {f"latency_table_error/{name}": value for name, value in asdict(self.table_error).items()}
        taus = {f"rank_correlation/{names.replace(', ', ' to ')}": tau for names, tau in self.agreement.items()}
        return {"front_points": len(self.front) - 1, "dropped": self.dropped, **error, **taus}

    def remarks(self) -> list[str]:
        """What a person should know of it beside the front, in lines."""
        taus = ", ".join(f"{names.replace(', ', ' to ')} {tau:.2f}" for names, tau in self.agreement.items())
        how = "by that table" if self.measured.untimed else "end to end"
        return [
            *self.measured.remarks(self.table_error),
            f"rank correlation (Kendall's tau): {taus}",
            f"{self.dropped} points left out: on held-out text and {how}, another is better and as fast",
            *self.advice.lines,
        ]


def finish(
    archive: Archive,
    objectives: Sequence[Metric],
    dense: Candidate,
    *,
    search: Evaluator,
    trained: Evaluator | None,
    heldout: Evaluator,
    tuned: Evaluator | None,
    timed: Evaluator | None,
    closing: Sequence[Evaluator] = (),
    points: int,
    recommend: Recommend,
    run_dir: Path,
    facts: Mapping[str, Any],
    reference: Sequence[Candidate] = (),
    plain: int = REFERENCE_POINTS,
    show: Show = lambda done, of: None,
) -> Finish:
    """Scores and times the front of a finished search, and keeps it in the run's directory.

    A thinned front is scored on held-out text, before and after the tuning that its exports will have; members that the
    last score shows to be dominated by another, or far from the dense model, are left out. The rest is timed end to end
    beside the dense model, and members that the timings show to be dominated, or not to be faster, go too. What is left
    is asked the closing questions. Where nothing is timed here, the times that the archive has of all of them count.

    Args:
        archive: With the search's evaluations; held-out scores and timings are stored there too.
        objectives: What the front is about.
        dense: The dense model.
        search: The search's full evaluator; the dense model is asked too, in case the space leaves it out.
        trained: Gives the same of trained subnets; then the front is theirs, where the search asked about any, and the
            untrained qualities have columns of their own. The dense model in other types is among them.
        heldout: Gives the task's held-out quality, such as `heldout_kl` and `heldout_ppl`; `heldout_bpb` in place of
            the first where the search's gives `bpb`.
        tuned: Gives the same of tuned subnets; then those of `heldout` are columns such as `refit_kl` and `refit_ppl`.
        timed: Gives `latency_e2e_ms`; None where the latency table is of another device than this one.
        closing: Asked about what is left in the end; an answer may have texts as facts, which go into the summary. A
            member that cannot answer stays.
        points: How many members at most.
        recommend: Which are offered, and which of them is recommended.
        run_dir: Where `front.csv`, `confirmed.csv`, `points.csv` and `summary.json` go.
        facts: What `summary.json` says besides; the page and the report need `model`, `text`, `dtype` and `latency`.
        reference: Plain designs that anyone would try, evaluated like the search's own at the end of every run, so that
            the page can show what the search is worth.
        plain: How many of these that have no types of their own, evenly chosen.
        show: Called with how much of a step of this is done, of how much.

    Raises:
        UserError: The dense model cannot be evaluated.
    """
    evaluate(search, archive, [dense, *some_of(reference, plain)], show=show)
    members = Members(archive, dense, show)
    members.ask(search, [dense])
    found = archive.front(objectives, search.fidelity)
    if trained is not None and archive.front(objectives, trained.fidelity):
        # what training changes nothing of, and the search may not have asked about again
        whole = [e.candidate for e in found if e.candidate.is_rounded and e.candidate.unrounded == dense]
        evaluate(trained, archive, whole, show=show)
        found = archive.front(objectives, trained.fidelity)
    for evaluation in thinned(found, objectives, dense, points, recommend, members.dense[1].get("nll", 0.0)):
        members.take(evaluation)
    if trained is not None:
        members.ask(trained, members.pruned)
        evaluate(search, archive, members.pruned, show=show)  # a healed supernet is asked about designs of its own
        members.take_untrained(search.fidelity)
    members.ask(heldout)
    if tuned is not None:
        members.rename(HELDOUT_BEFORE_TUNING)
        members.ask(tuned)
    agreement = members.agreement(_qualities(members.dense[1], trained is not None, tuned is not None))
    scored = members.table()
    kept = confirmed(within(scored, recommend.most), objectives)
    members.keep(kept["key"])
    if timed is not None:
        members.ask(timed)
        fidelity: str | None = timed.fidelity
    elif (fidelity := kept_times(archive, members.candidates, dense)) is not None:
        members.recall(fidelity)
    measured = Measured(facts["latency"], None if fidelity is None else device_of(archive, fidelity))
    everyone = members.table()
    error = measured.error(everyone)
    chosen = [*everyone["key"]] if measured.untimed else told_apart(everyone, objectives)
    texts = [answer for evaluator in closing for answer in members.close(evaluator, chosen)]
    write_front_csv(run_dir / CONFIRMED_FILE, members.table())
    front = members.table(chosen)
    searched = archive.evaluations(search.fidelity)
    everything = points_table([(e.candidate, e.values) for e in searched if e.status == "ok"], members.dense)
    front, metrics = write_tables(run_dir, archive, front, everything, objectives)
    advice, dropped = Advice.of(front, objectives, recommend.rise), len(scored) - len(front)
    summary = {
        **facts,
        "evaluations": len(searched),
        "objectives": [metric.name for metric in objectives],
        **front_facts(front, metrics, measured, error),
        "rank_correlation": {names: None if tau != tau else tau for names, tau in agreement.items()},
        "dropped": dropped,
        "samples": samples_summary(texts),
        "versions": versions(),
    }
    write_whole(run_dir / SUMMARY_FILE, json.dumps(summary, indent=1) + "\n")
    return Finish(front, advice, error, dropped, agreement, measured)


def _qualities(known: Collection[str], trained: bool, tuned: bool) -> tuple[str, ...]:
    """The qualities of a member that are compared, each with the next one, which is dearer to ask."""
    search, heldout = next(pair for pair in HELDOUT.items() if pair[0] in known)
    if trained:
        return BEFORE_TUNING[search], search, heldout
    return (search, HELDOUT_BEFORE_TUNING[heldout], heldout) if tuned else (search, heldout)
