"""What `serve_subnets.py` is told, checked before its work begins; free of torch, so that mistakes are told at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import permutations
from pathlib import Path
from typing import Any

import pandas as pd

from conf.compose import Config
from conf.settings import ended_settings, instantiated
from conf.values import checked
from evaluators.applicable import require_writer
from evaluators.settings import Settings
from search.run.finished import FinishedRun
from search.run.front import is_dense, latency_column, quality_column
from search.run.picks import candidate_of, require_unrounded, require_whole_vocabulary
from serving.controllers import DENSE, Controller, Offer
from serving.limits import Limits
from serving.switching import sources
from space.candidate import Candidate
from space.errors import UserError
from space.listening import choose_token, require_port

PACKAGES = ("fastapi", "uvicorn", "prometheus_client")  # of the extra [serve]
SHOWN = ("heldout_kl", "heldout_ppl", "params", "kv_bytes")  # of the front, beside its latency
SCALARS: Mapping[str, Any] = {
    "host": str,
    "port": int,
    "token": str | None,
    "log": bool,
    "points": Sequence[str] | None,
}


@dataclass(frozen=True)
class ServeSettings:
    """What the command is told.

    Attributes:
        run: The run that is served.
        session: What its session is told.
        offers: Its points, the dense model first, then ever faster ones.
        candidates: What each is, by id.
        controller: Chooses for requests that leave it open.
        limits: What the server takes on.
        host: The address to bind to.
        port: The port; 0 for any that is free.
        token: What a client must know; None for nothing.
        log: Whether requests are logged.
    """

    run: FinishedRun
    session: Settings
    offers: Sequence[Offer]
    candidates: Mapping[str, Candidate]
    controller: Controller
    limits: Limits
    host: str
    port: int
    token: str | None
    log: bool


def serve_settings(config: Config, arguments: Sequence[str]) -> ServeSettings:
    """The settings of a server, checked.

    Args:
        config: Of `serve_subnets.py`.
        arguments: Of the command line that gave it.

    Raises:
        UserError: A setting is wrong, the packages that serve are not installed, or there is no such run or point.
    """
    absent = [name for name in PACKAGES if find_spec(name) is None]
    if absent:
        raise UserError(
            f"serving: expected the packages {', '.join(PACKAGES)}, but {', '.join(absent)} is not installed: "
            "pip install -e '.[serve]'"
        )
    given = {key: checked(config[key], kind, key) for key, kind in SCALARS.items()}
    device = checked(config["model"]["device"], str | None, "model.device")
    limits: Limits = instantiated(config["limits"], "limits")
    controller = instantiated(config["controller"], "controller")
    require_port(given["port"])
    token = choose_token(given["host"], given["token"])
    run = FinishedRun.open(Path(str(config["run_dir"])))
    settings = ended_settings(run, config)
    require_writer(settings, "serve it")
    model = replace(settings.model, device=settings.model.device if device is None else device)
    model.require_directory()
    rows = _rows(run, given["points"])
    require_whole_vocabulary(map(candidate_of, _each(rows)), "to serve from one model (points=[...] chooses)")
    require_unrounded(map(candidate_of, _each(rows)), "to serve from one model (points=[...] chooses)")
    offers = _with_heirs(run, [_offer(run, row) for row in _each(rows)], [candidate_of(row) for row in _each(rows)])
    return ServeSettings(
        run=run,
        session=replace(settings, model=model),
        offers=offers,
        candidates=dict(zip((offer.id for offer in offers), map(candidate_of, _each(rows)), strict=True)),
        controller=controller(offers),
        limits=limits,
        host=given["host"],
        port=given["port"],
        token=token,
        log=given["log"],
    )


def _rows(run: FinishedRun, picks: str | Sequence[str] | None) -> pd.DataFrame:
    """The points to serve, in the front's order, the dense model among them.

    Raises:
        UserError: A pick names no point, or one off the front.
    """
    if picks is None:
        return run.front
    named = {str(run.row(pick)["key"]) for pick in ([picks] if isinstance(picks, str) else picks)}
    if strange := named - {*run.front["key"]}:
        raise UserError(
            f"points: expected points of the front, got {', '.join(sorted(strange))}, which are not of it. Leave them "
            "out, or export them."
        )
    return run.front[is_dense(run.front) | run.front["key"].isin(named)]


def _offer(run: FinishedRun, row: pd.Series[Any]) -> Offer:
    quality, latency = quality_column(run.front), latency_column(run.front)
    key = str(row["key"])
    dense = candidate_of(row) == run.dense
    names = [name for name, marked in run.marks.items() if marked == key]
    figures = {
        name: float(row[name])
        for name in (*SHOWN, *([latency] if latency else []))
        if name in row and math.isfinite(row[name])
    }
    loss = 0.0 if dense or quality is None else float(row[quality])
    return Offer(DENSE if dense else key, (key, *names) if dense else tuple(names), loss, figures)


def _with_heirs(run: FinishedRun, offers: Sequence[Offer], candidates: Sequence[Candidate]) -> list[Offer]:
    """Offers that know who can go on with what they have written."""
    served, facts = dict(zip((offer.id for offer in offers), candidates, strict=True)), run.summary["model"]
    pairs = {(one, other): sources(facts, served[one], served[other]) for one, other in permutations(served, 2)}
    able = {pair: there for pair, there in pairs.items() if there is not None}
    return [
        replace(each, heirs={other: able[each.id, other] for other in served if (each.id, other) in able})
        for each in offers
    ]


def _each(rows: pd.DataFrame) -> list[pd.Series[Any]]:
    return [row for _, row in rows.iterrows()]
