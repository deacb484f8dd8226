"""From arguments to a configuration as nested dicts, with the mistakes that Hydra finds told in one line each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from conf.places import from_the_root
from search.differences import flatten
from search.run.commands import override
from space.errors import UserError

Config = dict[str, Any]
MOST_NAMED = 3  # names that are near one that there is not
_NEAR = 0.6  # part of the letters that are alike
_AS_NEAR = 0.1  # of that part, by which several names are about as near

_KEY = re.compile(r"(?:Could not override|already at|Could not delete(?: from config\.)?|config group) '([^']+)'")


def plain(cfg: DictConfig) -> Config:
    """A configuration as nested dicts, lists and scalars: references resolved, local paths from the root on.

    Raises:
        UserError: A setting without a default is not given, or a reference leads nowhere.
    """
    try:
        config: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        name = error.full_key
        raise UserError(f"{name}: expected a value, as it has no default, got none. Give it: {name}=...") from error
    except OmegaConfBaseException as error:
        raise UserError(f"Expected settings whose references can be resolved, got: {_first_line(error)}.") from error
    return from_the_root(dict(config))


def composed(*overrides: str, name: str = "config") -> Config:
    """What the command line gives an entry with these arguments, as nested dicts."""
    with initialize_config_module("conf", version_base="1.3"):
        return plain(compose(name, [*overrides]))


def refusal(error: HydraException | OmegaConfBaseException, arguments: Sequence[str], name: str) -> UserError:
    """What a person should know of an error of Hydra's, in one line.

    Args:
        error: Raised while it composed.
        arguments: Of the command line.
        name: Of the configuration.
    """
    text = str(error)
    if isinstance(error, OverrideParseException):
        return UserError(_unreadable(error.override))
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        near = _near(option, error.options)
        return UserError(f"{group}: expected one of {', '.join(error.options)}, got {option}.{_did_you_mean(near)}")
    ambiguous = re.search(r"Ambiguous value for argument '(.*)'", text)
    if ambiguous:
        key, _, value = ambiguous[1].partition("=")
        return UserError(
            f"{key}: expected one value, got several, {value}. As a list: '{key}=[{value}]'; as one "
            f"text: {override(key, value)}; as a job for each: --multirun."
        )
    unknown = _KEY.search(text)
    if unknown:
        return UserError(_unknown(unknown[1], arguments, name))
    return UserError(f"Expected arguments that Hydra understands, got: {_first_line(error)}. --help shows them.")


def require_changes(arguments: Sequence[str]) -> None:
    """Raises UserError where an argument adds a setting or takes one away, as Hydra could: there are no others."""
    for argument in arguments:
        if argument.startswith(("+", "~")):
            name = argument.lstrip("+~").partition("=")[0]
            raise UserError(
                f"{argument}: expected {name}=..., as settings are changed, not added or taken away. "
                "Leave out the sign."
            )


def _unreadable(argument: str) -> str:
    key, is_set, value = argument.partition("=")
    if not is_set or not re.fullmatch(r"[+~]*[\w./@:-]+", key):
        return f"{argument}: expected an argument such as seed=1. --help shows the settings."
    return (
        f"{key}: expected a value that Hydra can read, got {value}. It gives a meaning to some characters "
        f"(blanks, commas, =, #, quotes, brackets, letters with accents); quote it: {override(key, value)}"
    )


def _unknown(key: str, arguments: Sequence[str], name: str) -> str:
    """What to say of a key that is not there; those that are depend on the groups that were chosen."""
    GlobalHydra.instance().clear()
    groups = [each for each in arguments if re.match(r"[a-z]+=", each) and not each.startswith(f"{key.split('.')[0]}=")]
    try:
        config = _settings(name, groups)
    except HydraException:  # more is wrong than this key
        config = _settings(name, [])
    leaves = [each for each in flatten(config) if not re.search(r"(^|\.)_\w+_$", each)]
    known = [*dict.fromkeys([*config, *leaves])]
    return f"{key}: there is no such setting.{_did_you_mean(_near(key, known))} --help shows all."


def _settings(name: str, overrides: Sequence[str]) -> Config:
    with initialize_config_module("conf", version_base="1.3"):
        config: Any = OmegaConf.to_container(compose(name, [*overrides]))
    return dict(config)


def _near(name: str, known: Iterable[str]) -> list[str]:
    """The names most like one, the likest first; of a dotted name its last part counts as the whole does."""

    def likeness(each: str) -> float:
        pairs = (name, each), (name.rpartition(".")[2], each.rpartition(".")[2])
        return max(SequenceMatcher(None, *pair).ratio() for pair in pairs)

    likest = sorted(((likeness(each), each) for each in known), key=lambda pair: -pair[0])
    near = [(value, each) for value, each in likest if value >= _NEAR]
    return [each for value, each in near if value > near[0][0] - _AS_NEAR][:MOST_NAMED]


def _did_you_mean(names: Sequence[str]) -> str:
    return f" Did you mean {' or '.join(names)}?" if names else ""


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
