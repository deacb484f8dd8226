"""Searches under one budget: hypervolume against tokens, and KL at three sizes, over several seeds.

    python -m benchmarks.search --out DIR [--seeds 3] [--tokens 820000] [--overrides SETTING=VALUE ...]
        [--objectives kl,latency_ms kl,decoder_params]
        [--searches surrogate nsga2 random evolution dp greedy ladders]

All searches see the same prepared default model, latency table, text and fidelities, and share one archive: what one
of them has asked already is not computed again, but its tokens count for each. Run it again with the same DIR to go on.
Hypervolume is of the evaluations at full fidelity, below the dense model's cost and a KL of 3 nats a token (20 times
the perplexity). Searches that draw nothing at random run once.

Writes DIR/search.csv (a row for each search, seed and number of tokens) and DIR/search.html, and prints the ends.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

if not __package__:  # as a script, this file hides the package `search` from itself and from every other benchmark
    sys.exit("error: expected a benchmark to be run as a module: python -m benchmarks.search, from the project's root")

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from rich.console import Console
from rich.table import Table

from conf.compose import composed
from conf.settings import instantiated, session_settings
from evaluators.base import Evaluation, choose_metrics
from evaluators.paths import Paths
from evaluators.session import Session
from search.archive import Archive
from search.loop import Budget, run_loop
from search.pareto import hypervolume, minimised
from search.protocol import Algorithm, Question, Task, starting_designs
from space.size import decoder_params

SEARCHES = ("surrogate", "nsga2", "random", "evolution", "dp", "greedy", "ladders")
ONCE = ("dp", "greedy", "ladders")
SIZES = (0.25, 0.375, 0.5)
ROUNDING = 1e-3  # 24.99 % counts as 25 %
WORST_KL = 3.0
POINTS = 41  # numbers of tokens at which a search is looked at


class Recorded:
    """An algorithm that keeps what it was told, with the tokens that had been spent by then."""

    def __init__(self, algorithm: Algorithm) -> None:
        self._algorithm = algorithm
        self.evaluations: list[tuple[int, Evaluation]] = []
        self._tokens = 0

    @property
    def remark(self) -> str:
        """See `Algorithm`."""
        return self._algorithm.remark

    def ask(self, n: int) -> list[Question]:
        """See `Algorithm`."""
        return self._algorithm.ask(n)

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """See `Algorithm`."""
        for evaluation in evaluations:
            self._tokens += evaluation.tokens
            self.evaluations.append((self._tokens, evaluation))
        self._algorithm.tell(evaluations)


class Harness:
    """The model, the text and the archive that all searches share."""

    def __init__(self, out: Path, overrides: Sequence[str]) -> None:
        self._searches = {name: composed(*overrides, f"search={name}")["search"] for name in SEARCHES}
        untuned = replace(session_settings(composed(*overrides)), correction=None, training="off")
        session = Session.open(untuned, Paths(out))
        out.mkdir(parents=True, exist_ok=True)
        self.spec, self.dense, self.space = session.spec, session.dense, session.space
        self._fidelities = session.fidelities
        self._starts = starting_designs(self.space, session.supernet.removal_order)
        self.archive = Archive(out / "archive.jsonl", session.identity() | {"overrides": [*overrides]})

    def run(self, name: str, objectives: Sequence[str], seed: int, tokens: int) -> list[tuple[int, Evaluation]]:
        """Evaluations at full fidelity in order, each with the tokens spent by then."""
        evaluators, settings = self._fidelities.search, self._searches[name]
        metrics = choose_metrics(list(objectives), evaluators[-1].metrics)
        task = Task(self.space, metrics, seed, self._fidelities.free, self._starts, len(evaluators))
        algorithm = Recorded(instantiated(settings["algorithm"])(task))
        run_loop(
            algorithm,
            evaluators,
            self.archive,
            metrics,
            Budget(tokens=tokens),
            ask=settings["ask"],
        )
        return [(spent, e) for spent, e in algorithm.evaluations if e.fidelity == "search" and e.status == "ok"]

    def curve(
        self, evaluations: Sequence[tuple[int, Evaluation]], objectives: Sequence[str], tokens: int
    ) -> pd.DataFrame:
        """What a search had by each number of tokens: `tokens`, `hypervolume`, and `kl_<percent removed>`."""
        metrics = choose_metrics(list(objectives), self._fidelities.search[-1].metrics)
        dense = minimised([self._fidelities.free(self.dense)], metrics[1:])[0]
        spent = np.array([at for at, _ in evaluations])
        values = minimised([e.values for _, e in evaluations], metrics)
        removed = np.array(
            [1 - e.values["decoder_params"] / decoder_params(self.spec, self.dense) for _, e in evaluations]
        )
        kl = np.array([e.values["kl"] for _, e in evaluations])
        rows = []
        for limit in np.linspace(0, tokens, POINTS)[1:]:
            by_then = spent <= limit
            row = {"tokens": int(limit), "hypervolume": hypervolume(values[by_then], [WORST_KL, *dense])}
            for size in SIZES:
                fits = by_then & (removed >= size - ROUNDING)
                row[f"kl_{size:.1%}"] = kl[fits].min() if fits.any() else float("nan")
            rows.append(row)
        return pd.DataFrame(rows)


def runs(objectives: Sequence[str], searches: Sequence[str], seeds: int) -> Iterator[tuple[str, str, int]]:
    """Objectives, search and seed of every run, first seeds first."""
    for seed in range(seeds):
        for names in objectives:
            for search in searches:
                if seed == 0 or search not in ONCE:
                    yield names, search, seed


def figure(frame: pd.DataFrame) -> go.Figure:
    """Mean hypervolume against tokens with the range over seeds, a panel for each pair of objectives."""
    panels = list(frame["objectives"].unique())
    drawn = make_subplots(1, len(panels), subplot_titles=[f"{p.replace(',', ' against ')}" for p in panels])
    colours = dict(
        zip(SEARCHES, ("#1b6ca8", "#d95f02", "#7f7f7f", "#7b3fa0", "#2a9d4a", "#b8860b", "#c2547f"), strict=True)
    )
    named: set[str] = set()
    for column, panel in enumerate(panels, start=1):
        for search, part in frame[frame["objectives"] == panel].groupby("search", sort=False):
            over_seeds = part.groupby("tokens")["hypervolume"].agg(["mean", "min", "max"])
            x, colour = over_seeds.index.to_numpy(), colours[str(search)]
            if part["seed"].nunique() > 1:
                band: dict[str, Any] = {"mode": "lines", "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
                drawn.add_scatter(x=x, y=over_seeds["max"], **band, row=1, col=column)
                drawn.add_scatter(
                    x=x, y=over_seeds["min"], **band, fill="tonexty", fillcolor=_faint(colour), row=1, col=column
                )
            line = {"color": colour, "width": 3 if search == "surrogate" else 1.5}
            drawn.add_scatter(
                x=x, y=over_seeds["mean"], name=str(search), mode="lines", line=line,
                legendgroup=str(search), showlegend=search not in named, row=1, col=column,
            )  # fmt: skip
            named.add(str(search))
        most = frame.loc[frame["objectives"] == panel, "hypervolume"].max()
        drawn.update_yaxes(range=[0.5 * most, 1.03 * most], col=column)  # what is below is not worth having
    drawn.update_xaxes(title="tokens sent through candidates", rangemode="tozero")
    drawn.update_yaxes(title="hypervolume", col=1)
    legend, margin = {"orientation": "h", "y": -0.2}, {"t": 40, "r": 20, "b": 40}
    drawn.update_layout(template="plotly_white", width=1000, height=400, legend=legend, margin=margin)
    return drawn


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.15)"


def ends(frame: pd.DataFrame, console: Console) -> None:
    """Prints what every search ended with, and by how many tokens the default one was as good; means over seeds."""
    for panel, part in frame.groupby("objectives", sort=False):
        means = part.groupby(["search", "tokens"], sort=False).mean(numeric_only=True).reset_index("tokens")
        last = means[means["tokens"] == means["tokens"].max()]
        ours = means.loc[["surrogate"]] if "surrogate" in means.index else None
        table = Table("search", "seeds", "hypervolume", "surrogate has it by", *(f"KL {s:.1%}" for s in SIZES))
        for search, row in last.iterrows():
            reached = ours[ours["hypervolume"] >= row["hypervolume"]] if ours is not None else means[:0]
            table.add_row(
                str(search),
                str(part[part["search"] == search]["seed"].nunique()),
                f"{row['hypervolume']:.4g}",
                f"{reached['tokens'].iloc[0]:.0f} tokens" if len(reached) else "",
                *(f"{row[f'kl_{size:.1%}']:.4f}" for size in SIZES),
            )
        console.print(f"{panel}, {int(last['tokens'].iloc[0])} tokens", table)


def main() -> None:
    """Runs what is missing, and writes and prints all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=820_000)
    parser.add_argument("--objectives", nargs="+", default=["kl,latency_ms", "kl,decoder_params"])
    parser.add_argument("--searches", nargs="+", default=SEARCHES, choices=SEARCHES)
    parser.add_argument("--overrides", nargs="*", default=[], help="settings of run_search.py")
    arguments = parser.parse_args()
    console = Console(width=120)
    harness = Harness(arguments.out, arguments.overrides)
    frames = []
    for names, search, seed in runs(arguments.objectives, arguments.searches, arguments.seeds):
        objectives = names.split(",")
        evaluations = harness.run(search, objectives, seed, arguments.tokens)
        curve = harness.curve(evaluations, objectives, arguments.tokens)
        console.print(f"{names} {search} seed {seed}: hypervolume {curve['hypervolume'].iloc[-1]:.4g}", highlight=False)
        frames.append(curve.assign(objectives=names, search=search, seed=seed))
        frame = pd.concat(frames, ignore_index=True)
        frame.to_csv(arguments.out / "search.csv", index=False)
        figure(frame).write_html(arguments.out / "search.html", config={"displayModeBar": False})
    ends(frame, console)


if __name__ == "__main__":
    main()
