"""The same subnets in several engines, side by side: milliseconds of prefill and decoding, and the speed-up.

    python -m benchmarks.engines --run-dir RUN [--removed 0.25 0.5] [--engines torch onnx] [--settings KEY=VALUE ...]

RUN is a finished run of run_search.py; of its evaluated points, the best one with at least each fraction of the
decoder-layer parameters removed is timed as run_search.py times its front, in turns with the dense model. Graphs for
ONNX Runtime and OpenVINO compute all logits of a prompt, and so does torch here; llama.cpp and vLLM compute the last
one's.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.quality import best_of_size
from conf.compose import composed
from conf.sessions import run_session
from conf.settings import instantiated
from evaluators.latency.bench import make_clock
from evaluators.latency.clocks import OnTimings
from evaluators.latency.workload import Phase, Workload
from search.run.finished import FinishedRun
from search.run.picks import candidate_of
from space.candidate import Candidate
from space.formats.requirements import ENGINES, require_engine
from space.formats.traced.check import in_engine
from space.formats.traced.export import write_graph
from space.supernet.supernet import Supernet

SETTINGS = {
    "torch": ["latency.logits=all"],
    "llamacpp": ["latency.engine=llamacpp"],
    "vllm": ["latency.engine=vllm"],
}


class GraphClock:
    """Graphs of a supernet's subnets, in turns with the dense model's in one fresh process; asked as a `Clock` is."""

    def __init__(self, engine: str, supernet: Supernet, threads: int, work: Path) -> None:
        """Times nothing yet; `work` gets the graphs, each of which is written once."""
        require_engine(engine)
        self._engine, self._supernet, self._work = engine, supernet.sliced(), work
        self._threads = threads or torch.get_num_threads()

    def describe(self) -> dict[str, Any]:
        """What the table says of it."""
        package = ENGINES[self._engine][-1]
        return {"engine": f"{package} {version(package)}", "dtype": "float32" if self._engine == "onnx" else "its own"}

    def session(
        self, phase: Phase, models: Mapping[str, Candidate], rounds: int, on_timings: OnTimings
    ) -> tuple[dict[str, list[float]], float]:
        """As of `evaluators.latency.clocks.Clock`."""
        generator = torch.Generator().manual_seed(0)
        request = {
            "job": "time",
            "engine": self._engine,
            "directories": [self._written(each) for each in (Candidate.dense(self._supernet.spec), *models.values())],
            "threads": self._threads,
            "kind": phase.kind,
            "prompt": torch.randint(self._supernet.spec.vocab, (phase.tokens,), generator=generator).tolist(),
            "rounds": rounds,
        }
        times = in_engine(request, f"{self._engine} did not time {', '.join(models)}")["ms"]
        ratios = {name: [row[place] / row[0] for row in times] for place, name in enumerate(models, 1)}
        return ratios, statistics.median(row[0] for row in times)

    def _written(self, candidate: Candidate) -> str:
        directory = self._work / f"{self._engine}-{candidate.key}"
        if not directory.exists():
            directory.mkdir()
            write_graph(self._engine, self._supernet.view(candidate), directory)
        return str(directory)


def main() -> None:
    """Loads, times and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--removed", type=float, nargs="+", default=[0.25, 0.5])
    parser.add_argument("--engines", nargs="+", default=[*SETTINGS, *ENGINES], choices=[*SETTINGS, *ENGINES])
    parser.add_argument("--settings", nargs="*", default=[], help="Hydra overrides of conf/latency")
    arguments = parser.parse_args()
    run = FinishedRun.open(arguments.run_dir)
    session = run_session(arguments.run_dir)
    points = {
        f"{removed:.1%} removed": candidate_of(best_of_size(run.points, removed)) for removed in arguments.removed
    }
    console = Console(width=120)
    table = Table("scenario", "engine", "dense, ms", *(f"{name}\n{c.key}" for name, c in points.items()))
    with tempfile.TemporaryDirectory(prefix="paretoprune-engines-") as work:
        for engine in arguments.engines:
            for scenario in ("prefill", "decode"):
                settings = composed(f"latency={scenario}", *SETTINGS.get(engine, ()), *arguments.settings)
                workload: Workload = instantiated(settings["latency"])
                clock = (
                    GraphClock(engine, session.supernet, workload.threads, Path(work))
                    if engine in ENGINES
                    else make_clock(session.supernet, workload, session.loaded.tokenizer)
                )
                phase = workload.phases[scenario]
                ratios, dense_ms = clock.session(phase, points, workload.front_rounds, lambda done, of: None)
                medians = [statistics.median(ratios[name]) for name in points]
                about = clock.describe()
                row = (
                    f"{scenario}, {phase.batch_size} x {phase.tokens}", f"{about['engine']}, {about['dtype']}",
                    f"{dense_ms:.2f}", *(f"{dense_ms * ratio:.2f} ms, {1 / ratio:.2f} x" for ratio in medians),
                )  # fmt: skip
                table.add_row(*row)
                console.print(*row, highlight=False)
    console.print(table)


if __name__ == "__main__":
    main()
