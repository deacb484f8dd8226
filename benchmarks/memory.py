"""What a search and an export of a model of some size take: host memory at most, and minutes.

    python -m benchmarks.memory --shape tinyllama-1.1b --out DIR [--overrides SETTING=VALUE ...]

A random checkpoint of the shape in bfloat16 is written to DIR, then searched by `run_search.py` and a point of it
exported by `export_subnet.py`. Memory is the resident memory of a command and all its processes together, each page
counted once (Pss), looked at twice a second; the checkpoint's own size stands beside it. DIR may hold the run of
an earlier call: what is there is not made again, and is not measured.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.device.machine import Machine
from benchmarks.device.models import SHAPES, write_checkpoint
from search.run.directory import SUMMARY_FILE

ROOT = Path(__file__).parents[1]
_SECONDS = 0.5  # between two looks, which cost what they look at some time


def resident_bytes(root: int) -> int:
    """Proportional resident memory of a process and all below it."""
    parents = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue  # it has ended
    family = {root}
    while more := {process for process, parent in parents.items() if parent in family} - family:
        family |= more
    total = 0
    for process in family:
        try:
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total << 10


def watched(command: list[str]) -> tuple[int, float]:
    """The most memory that a command and its processes took, and its seconds."""
    start, most = time.monotonic(), 0
    process = subprocess.Popen(command)
    while process.poll() is None:
        most = max(most, resident_bytes(process.pid))
        time.sleep(_SECONDS)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return most, time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=[*SHAPES], default="tinyllama-1.1b")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dry", action="store_true", help="tiny sizes, to try this out")
    parser.add_argument("--overrides", nargs="*", default=["experiment=smoke"])
    args = parser.parse_args()
    model, run_dir = args.out / args.shape, args.out / "run"
    if not (model / "config.json").exists():
        write_checkpoint(args.shape, Machine(torch.device("cpu"), torch.bfloat16, args.dry), model)
    size = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    rows = {}
    if not (run_dir / SUMMARY_FILE).exists():
        command = [f"model.path={model}", f"run_dir={run_dir}", *args.overrides]
        rows["search"] = watched([sys.executable, str(ROOT / "run_search.py"), *command])
    export = [f"run_dir={run_dir}", "pick=fastest", "polish.minutes=0"]
    rows["export"] = watched([sys.executable, str(ROOT / "export_subnet.py"), *export])
    for name, (most, seconds) in rows.items():
        print(f"{name}: {most / 1e9:.2f} GB at most, {most / size:.2f} x the checkpoint, in {seconds / 60:.1f} min")
    kept = sum(file.stat().st_size for file in (run_dir / "supernet").iterdir())
    print(f"checkpoint {size / 1e9:.2f} GB, supernet/ on disk {kept / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
