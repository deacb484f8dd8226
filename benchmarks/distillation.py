"""What to train of a subnet: held-out KL and seconds by what is trained, learning rate and tokens.

    python -m benchmarks.distillation --run-dir RUN [--pick KEY] [--rows adapters:0.001 outputs:0.0002 all:0.0001]

RUN is a run of run_search.py. A subnet of it, by its key, or else half of all MLP channels with all attention, gets the
run's corrective refit and is then distilled on calibration text by every row, `what:learning rate`. After so many
tokens each, its divergence from the dense model on the run's held-out text is printed, with the seconds that training
took by then, the teacher's lessons and the refit not counted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from conf.sessions import run_session
from evaluators.divergence import Divergence
from evaluators.training.distillation import Student
from evaluators.training.recipes import Distillation
from evaluators.training.teacher import Teacher
from space.candidate import Candidate, LayerShape
from space.spec import ModelSpec
from space.supernet.correction import Correction
from space.supernet.corrective_refit import correct

ROWS = ["norms:0.001", "outputs:0.0002", "adapters:0.0003", "adapters:0.001", "adapters:0.003", "all:0.0001"]


def candidate_of(run_dir: Path, pick: str | None, spec: ModelSpec) -> Candidate:
    """The design of a key in the run's archive, or the uniform one."""
    if pick is None:
        return Candidate((LayerShape(spec.query_heads, spec.kv_heads, spec.mlp_channels // 2),) * spec.layers)
    for line in (run_dir / "archive.jsonl").read_text().splitlines()[1:]:
        record = json.loads(line)
        if record["key"] == pick:
            return Candidate.from_json(record["candidate"])
    raise SystemExit(f"expected a key of {run_dir / 'archive.jsonl'}, got {pick}")


def main() -> None:
    """Trains every row and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--pick", help="key of a design; the uniform one when not given")
    parser.add_argument("--rows", nargs="+", default=ROWS, metavar="WHAT:RATE")
    parser.add_argument("--tokens", nargs="+", type=int, default=[4096, 16384, 65536])
    parser.add_argument("--batch-size", type=int, default=1, help="windows of a step")
    arguments = parser.parse_args()
    session = run_session(arguments.run_dir)
    spec, supernet, text, length = session.spec, session.supernet, session.text, session.settings.text.length
    unseen = Divergence(supernet, session.windows("heldout"), batch_size=session.settings.evaluators.together)
    candidate = candidate_of(arguments.run_dir, arguments.pick, spec)
    refit = session.settings.correction
    correction: Correction | None = None
    if refit:
        refit_text = text.blocks("calibration", refit.windows, length)
        (correction,) = correct(supernet, [candidate], refit_text, damping=refit.damping, batch_size=refit.batch_size)
    counts = sorted(arguments.tokens)
    windows = text.blocks("calibration", -(-counts[-1] // length), length)
    table = Table("trained", "learning rate", "parameters", *(f"{count} tokens" for count in counts))
    console = Console(width=120)
    before = (unseen(candidate)[0], unseen(candidate, supernet.view(candidate, correction, own=True))[0])
    scratch = Path(tempfile.mkdtemp())
    try:
        teacher = Teacher(supernet.model, spec.digest, windows, scratch / "teacher", batch_size=arguments.batch_size)
        for row in arguments.rows:
            what, _, rate = row.partition(":")
            settings = Distillation(
                tokens=tuple(counts), trainable=what, learning_rate=float(rate), batch_size=arguments.batch_size
            )
            student = Student(supernet.view(candidate, correction, own=True), settings, arguments.batch_size * length)
            seconds, cells = 0.0, []
            for count in counts:
                start = time.perf_counter()
                while student.step * arguments.batch_size * length < count:
                    student.learn(teacher.lesson(student.step))
                seconds += time.perf_counter() - start
                scored = Student(
                    supernet.view(candidate, correction, own=True), settings, arguments.batch_size * length
                )
                scored.restore(student.state())
                cells.append(f"{unseen(candidate, scored.merged())[0]:.4f} ({seconds:.0f} s)")
            table.add_row(what, rate, f"{student.trained:,}", *cells)
            console.print(f"{row}: {', '.join(cells)}", highlight=False)
    finally:
        shutil.rmtree(scratch)
    console.print(f"{candidate.key}: held-out KL {before[0]:.4f}, after the corrective refit {before[1]:.4f}", table)


if __name__ == "__main__":
    main()
