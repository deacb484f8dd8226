"""From configurations to settings, checked before any model is read: free of torch, as mistakes are told at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from conf.places import moved
from conf.values import checked_part
from evaluators.settings import Settings
from search.run.directory import CONFIG_FILE, read_config
from search.run.finished import FinishedRun
from space.checks import check_space, dtype_name
from space.errors import UserError
from space.space import SearchSpace

# Of the space, what depends on the model.
OF_THE_MODEL = ("mlp_step", "expert_step", "freeze_layers", "freeze_attention", "freeze_mlp", "min_layers")
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


def instantiated(part: Any, key: str = "") -> Any:
    """What a part of a configuration names by `_target_`; None stays None.

    Args:
        part: The part.
        key: Where it stands in the configuration.

    Raises:
        UserError: A value is refused, in the words of whoever refuses it; or the part is of another version.
    """
    try:
        return instantiate(part if part is None else checked_part(part, key), _convert_="all")
    except (InstantiationException, ImportError, AttributeError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        if isinstance(cause, UserError):
            raise cause from error
        raise UserError(
            f"Expected settings of this version{f' in {key}' * bool(key)}, but they cannot be read: "
            f"{' '.join(str(cause).split())}. Start a new run, or use the version that wrote them."
        ) from error


def session_settings(config: Mapping[str, Any]) -> Settings:
    """The settings of a run's session.

    Args:
        config: Of `run_search.py`, as nested dicts: composed now, or stored by a run.

    Raises:
        UserError: See `instantiated`.
    """
    try:
        parts = {name: instantiated(config[key], key) for name, key in PARTS.items()}
        for name, part in parts.items():
            if isinstance(part, Mapping):
                raise KeyError(f"{PARTS[name]}._target_")
        space = parts["space"].keywords
        check_space(**{name: value for name, value in space.items() if name not in OF_THE_MODEL})
        parts["space"] = partial(SearchSpace, **space)  # of the standard library, not of Hydra
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
    settings, dtype = session_settings(run.config), dtype_name(run.summary["dtype"])
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
