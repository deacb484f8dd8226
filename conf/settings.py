"""From configurations to settings: all that entries and benchmarks know of Hydra beside `hydra.main`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from conf.places import from_the_root, gone_on_with, moved
from evaluators.paths import Paths, Stage, unseen
from evaluators.session import Session
from evaluators.settings import Settings
from search.loop import Budget
from search.protocol import Algorithm, Task
from search.run.directory import CONFIG_FILE, new_name, read_config
from search.run.finished import FinishedRun
from search.run.recommended import Recommend
from space.errors import UserError
from space.space import SearchSpace

# Field of `Settings` to the key of a configuration that it is made of.
PARTS: Mapping[str, str] = {
    "model": "model",
    "text": "data",
    "supernet": "supernet",
    "space": "space",
    "evaluators": "evaluators",
    "latency": "latency",
    "correction": "correction",
    "distillation": "distillation",
    "tasks": "evaluate",
    "samples": "samples",
}


@dataclass(frozen=True)
class RunSettings:
    """What `run_search.py` is told.

    Attributes:
        session: What its session is told.
        run_dir: The run's directory; a new one where the user named none.
        seed: Of the search.
        budget: When the search ends.
        algorithm: Makes the algorithm of a task.
        ask: Candidates asked at once.
        constraints: See `search.constraints.limits`.
        front_points: The most members that the front keeps.
        recommend: Which point of the front is recommended, and what is offered.
        scored_picks: Points beside the recommended one that are scored on tasks.
        profile_only: Whether the run ends after the latency table.
        compared: Directories of runs whose fronts the page lays over.
        tracker: A row of `search.views.watch.trackers.TRACKERS`, or `none`.
        stored: All of this as the run's directory keeps it and trackers are told it: nested dicts, lists and scalars.
    """

    session: Settings
    run_dir: Path
    seed: int
    budget: Budget
    algorithm: Callable[[Task], Algorithm]
    ask: int
    constraints: Mapping[str, Any]
    front_points: int
    recommend: Recommend
    scored_picks: int
    profile_only: bool
    compared: Sequence[str]
    tracker: str
    stored: Mapping[str, Any]


def run_settings(config: dict[str, Any]) -> RunSettings:
    """The settings of a run.

    Args:
        config: Of `run_search.py`, as nested dicts.

    Raises:
        UserError: See `instantiated`; or the run's directory holds a configuration that cannot be read.
    """
    run_dir = Path(config["run_dir"] or new_name(config["name"]))
    config = gone_on_with(config, read_config(run_dir) or {})
    return RunSettings(
        session=session_settings(config),
        run_dir=run_dir,
        seed=config["seed"],
        budget=instantiated(config["budget"]),
        algorithm=instantiated(config["search"]["algorithm"]),
        ask=config["search"]["ask"],
        constraints=config["constraints"],
        front_points=config["front_points"],
        recommend=Recommend.of(config),
        scored_picks=config["evaluate"]["picks"],
        profile_only=config["profile_only"],
        compared=config["compare"],
        tracker=config["tracker"],
        stored=config,
    )


def plain(cfg: DictConfig) -> dict[str, Any]:
    """A configuration as nested dicts, lists and scalars: references resolved, local paths from the root on."""
    config: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    return from_the_root(dict(config))


def composed(*overrides: str, name: str = "config") -> dict[str, Any]:
    """What the command line gives an entry with these arguments, as nested dicts."""
    with initialize_config_module("conf", version_base="1.3"):
        return plain(compose(name, [*overrides]))


def instantiated(part: Any) -> Any:
    """What a part of a configuration names by `_target_`; None stays None.

    Raises:
        UserError: A value is refused, in the words of whoever refuses it; or the part is of another version.
    """
    try:
        return instantiate(part, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        if cause is not None:
            raise cause from error
        raise UserError(
            f"Expected settings of this version, but they cannot be read: {' '.join(str(error).split())}. "
            "Start a new run, or use the version that wrote them."
        ) from error


def session_settings(config: Mapping[str, Any]) -> Settings:
    """The settings of a run's session.

    Args:
        config: Of `run_search.py`, as nested dicts: composed now, or stored by a run.

    Raises:
        UserError: See `instantiated`.
    """
    try:
        parts = {name: instantiated(config[key]) for name, key in PARTS.items()}
        for name, part in parts.items():
            if isinstance(part, Mapping):
                raise KeyError(f"{PARTS[name]}._target_")
        parts["space"] = partial(SearchSpace, **parts["space"].keywords)  # of the standard library, not of Hydra
        return Settings(**parts, training=config["search"]["distillation"], objectives=config["objectives"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"Expected settings of this version, but they do not read as such ({type(error).__name__}: {error}). "
            "Start a new run, or use the version that wrote them."
        ) from error


def ended_settings(run: FinishedRun, config: Mapping[str, Any]) -> Settings:
    """The settings of a run that has ended, in the dtype that it had.

    Args:
        run: The run, whose model and text are known by their digests.
        config: Of the entry, as nested dicts: where model and text are now, where they are not where they were.

    Raises:
        UserError: See `session_settings`.
    """
    settings, dtype = session_settings(run.config), str(run.summary["dtype"]).removeprefix("torch.")
    return moved(replace(settings, model=replace(settings.model, dtype=dtype)), config)


def stored_config(run_dir: Path) -> dict[str, Any]:
    """The configuration that a run has stored, begun or ended.

    Raises:
        UserError: There is none, or it cannot be read.
    """
    config = read_config(run_dir)
    if config is None:
        raise UserError(f"Expected {run_dir} to hold a run, but it has no {CONFIG_FILE}. Give a run's directory.")
    return dict(config)


def run_session(run_dir: Path, stage: Stage = unseen) -> Session:
    """A session with the settings that a run has stored.

    Raises:
        UserError: See `stored_config` and `session_settings`.
    """
    return Session.open(session_settings(stored_config(run_dir)), Paths(run_dir), stage)
