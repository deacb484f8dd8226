"""What servers of a run's points do now, as they keep it beside the run (`serving.live`)."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.course import Curve
from search.views.text import duration
from space.locations import LIVE_FILE, SERVING_DIRECTORY

SILENT_S = 15.0  # without a word from a server, after which it is taken for dead
SPAN = 5  # looks of a server, over which its rate is taken
SHOWN_POINTS = 5  # curves of the points that answer most; all others share one
OTHERS = "others"


@dataclass(frozen=True)
class ServedView:
    """What the page says of it.

    Attributes:
        words: The newest server's state; empty where none was ever begun.
        figures: What it did in the last minute, in words.
        ended: Requests a minute that have ended, against seconds before now, by point.
        load: Requests that are written and that wait, against the same.
    """

    words: str = ""
    figures: str = ""
    ended: dict[str, Curve] = field(default_factory=dict)
    load: dict[str, Curve] = field(default_factory=dict)


def served_view(run_dir: Path, now: float | None = None) -> ServedView:
    """Looks for the server of a run that was heard of last.

    Args:
        run_dir: The run.
        now: Seconds since 1970; None for now.
    """
    now = time.time() if now is None else now
    files = [*(run_dir / SERVING_DIRECTORY).glob(LIVE_FILE.format("*"))]
    try:
        if not files:
            return ServedView()
        told = json.loads(max(files, key=lambda file: file.stat().st_mtime).read_text(encoding="utf-8"))
        return ServedView(_words(told, now), _figures(told["recent"]), _ended(told["looks"]), _load(told["looks"]))
    except FileNotFoundError:  # deleted as it was looked for
        return ServedView()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        return ServedView(f"What a server tells of itself cannot be read: {type(error).__name__}: {error}")


def _words(told: Mapping[str, Any], now: float) -> str:
    ago = now - told["at"]
    where = f"controller={told['controller']} at {told['address']}"
    if told["ended"]:
        return f"Was served by {where}, until {duration(ago)} ago."
    if ago > SILENT_S:
        return f"Not served: {where} was last heard of {duration(ago)} ago."
    look = told["looks"][-1]
    return f"Served by {where}: {look['writing']} requests are written, {look['waiting']} wait."


def _figures(recent: Mapping[str, Any]) -> str:
    total = sum(recent["requests"].values())
    if not total:
        return "No request ended in its last minute."
    by = ", ".join(f"{point} {count}" for point, count in Counter(recent["requests"]).most_common())
    first, token, kept, loss = (recent[name] for name in ("first_token_s", "token_s", "slo_kept", "predicted_loss"))
    parts = [f"Its last minute: {total} requests ({by})"]
    parts += [f"{recent['failed']} of them failed"] if recent["failed"] else []
    parts += [f"first token after {1e3 * first:,.0f} ms"] if first is not None else []
    parts += [f"{1e3 * token:,.1f} ms a token (medians)"] if token is not None else []
    parts += [f"limits of time kept by {kept:.0%}"] if kept is not None else []
    parts += [f"predicted loss {loss:.3f} nats a token"] if loss is not None else []
    return f"{'; '.join(parts)}."


def _ended(looks: list[dict[str, Any]]) -> dict[str, Curve]:
    """Rates over the last `SPAN` looks, at each but the first, which has none before it."""
    totals: Counter[str] = sum((Counter(look["ended"]) for look in looks[1:]), Counter())
    named = [point for point, _ in totals.most_common(SHOWN_POINTS)]
    groups = {point: {point} for point in named}
    groups |= {OTHERS: others} if (others := {*totals} - {*named}) else {}
    return {name: [_rate(looks, at, points) for at in range(1, len(looks))] for name, points in groups.items()}


def _rate(looks: list[dict[str, Any]], at: int, points: set[str]) -> tuple[int, float]:
    """Requests a minute of some points before a look, against its seconds before the last one."""
    before = max(at - SPAN, 0)
    count = sum(look["ended"].get(point, 0) for look in looks[before + 1 : at + 1] for point in points)
    seconds = looks[at]["at"] - looks[before]["at"]
    return round(looks[at]["at"] - looks[-1]["at"]), 60 * count / seconds


def _load(looks: list[dict[str, Any]]) -> dict[str, Curve]:
    last = looks[-1]["at"]
    return {name: [(round(look["at"] - last), look[name]) for look in looks] for name in ("writing", "waiting")}
