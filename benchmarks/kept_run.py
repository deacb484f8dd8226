"""A finished run as it is kept in this repository, without weights, and the picture of its page.

    python -m benchmarks.kept_run --run-dir RUN

Copies what is small of RUN to `results/reference/run/`, with paths as if it had been made there, and has a Chromium
draw its page to `results/reference/front.png`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

REFERENCE = Path("results/reference")
FILES = (
    *("config.yaml", "latency.json", "archive.jsonl", "front.csv", "confirmed.csv", "points.csv"),
    *("summary.json", "report.md"),
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZE = "1400,1020"


def main() -> None:
    """Copies and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    run_dir = parser.parse_args().run_dir
    kept = REFERENCE / "run"
    kept.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        text = (run_dir / name).read_text(encoding="utf-8").replace(str(run_dir), str(kept))
        (kept / name).write_text(text.replace(str(Path.cwd()) + "/", ""), encoding="utf-8")
    page = REFERENCE / "front.html"
    page.write_text((run_dir / "front.html").read_text(encoding="utf-8").replace(str(run_dir), str(kept)))
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"expected one of {', '.join(BROWSERS)} to draw {page}, found none")
    command = [browser, "--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={SIZE}"]
    subprocess.run([*command, f"--screenshot={REFERENCE / 'front.png'}", page.resolve().as_uri()], check=True)
    page.unlink()


if __name__ == "__main__":
    main()
