"""What each entry script is told, checked before its work begins; free of torch, so that mistakes are told at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.compose import Config
from conf.places import gone_on_with
from conf.settings import instantiated, session_settings
from conf.values import checked
from evaluators.applicable import require_applicable
from evaluators.latency.elsewhere import table_of
from evaluators.latency.table import LATENCY_FILE
from evaluators.planning.memory import HEALED
from evaluators.settings import Settings
from search.executor import Executor
from search.loop import TOKENS, Budget, require_ask
from search.protocol import Algorithm, Task
from search.rehearsal import rehearse
from search.run.directory import read_config
from search.run.finished import finished_runs
from search.run.recommended import Recommend
from search.views.watch.trackers import require_tracker
from space.checks import require_least
from space.listening import require_port


@dataclass(frozen=True)
class RunSettings:
    """What `run_search.py` is told.

    Attributes:
        session: What its session is told.
        run_dir: The run's directory; None for a new one.
        name: Which then begins with this.
        seed: Of the search.
        budget: When the search ends.
        algorithm: Makes the algorithm of a task.
        ask: Candidates asked at once.
        executor: Who evaluates them.
        constraints: See `search.constraints.limits`.
        front_points: The most members that the front keeps.
        recommend: Which point of the front is recommended, and what is offered.
        scored_picks: Points beside the recommended one that are scored on tasks.
        profile_only: Whether the run ends after the latency table.
        plan: Whether nothing is run, and it is said what a run takes.
        compared: Directories of runs whose fronts the page lays over.
        tracker: A row of `search.views.watch.trackers.TRACKERS`, or `none`.
        stored: All of this as the run's directory keeps it and trackers are told it: nested dicts, lists and scalars.
        arguments: Of the command line that gave it, those of this job alone.
    """

    session: Settings
    run_dir: Path | None
    name: str
    seed: int
    budget: Budget
    algorithm: Callable[[Task], Algorithm]
    ask: int
    executor: Executor
    constraints: Mapping[str, Any]
    front_points: int
    recommend: Recommend
    scored_picks: int
    profile_only: bool
    plan: bool
    compared: Sequence[str]
    tracker: str
    stored: Mapping[str, Any]
    arguments: Sequence[str]

    def __post_init__(self) -> None:
        require_ask(self.ask)
        require_least(self, "", ("seed",), least=0)
        require_least(self, "", ("front_points",))

    @property
    def healed(self) -> int:
        """Designs that heal the supernet, at most."""
        return int(self.stored["search"]["algorithm"].get("healed", HEALED))

    def check(self) -> None:
        """Refuses what can be refused without the model, which reads nothing but runs to compare with.

        Raises:
            UserError: There is a mistake in the objectives, the constraints, the search, the tracker, the tasks or the
                runs to compare with, an engine that is named is not installed, or model or text is not where it is
                said to be on this machine, or the latency table of another device is none, or of something else.
        """
        session = self.session
        session.model.require_directory()
        if session.model.use.reads == "images":
            session.text.require_images()
        else:
            session.text.require_files()
        rehearse(
            self.algorithm,
            session.metrics,
            session.free,
            self.constraints,
            seed=self.seed,
            fidelities=session.untrained + session.trained,
            trained=session.trained,
            healed=session.heals_in_loop,
            tokens=self.budget.limited(TOKENS).tokens,
        )
        require_applicable(session)
        session.tasks.require_place()
        if session.latency.table is None:
            session.latency.require_engine()
        elif self.run_dir is None or not (self.run_dir / LATENCY_FILE).exists():
            table_of(Path(session.latency.table), session.latency)
        self.executor.check()
        require_tracker(self.tracker)
        finished_runs(self.compared)


# Keys of `run_search.py` that are no part with a `_target_`, and their kinds.
SCALARS: Mapping[str, Any] = {
    "name": str,
    "run_dir": str | None,
    "seed": int,
    "profile_only": bool,
    "plan": bool,
    "objectives": Sequence[str],
    "compare": Sequence[str],
    "tracker": str,
    "front_points": int,
}


def run_settings(config: Config, arguments: Sequence[str]) -> RunSettings:
    """The settings of a run, checked.

    Args:
        config: Of `run_search.py`.
        arguments: Of the command line that gave it.

    Raises:
        UserError: See `instantiated` and `RunSettings.check`; or the run's directory holds a configuration that cannot
            be read.
    """
    config = config | {key: checked(config[key], kind, key) for key, kind in SCALARS.items()}
    run_dir = None if config["run_dir"] is None else Path(config["run_dir"])
    if run_dir is not None:
        config = gone_on_with(config, read_config(run_dir) or {})
    search = config["search"]
    settings = RunSettings(
        session=session_settings(config),
        run_dir=run_dir,
        name=config["name"],
        seed=config["seed"],
        budget=instantiated(config["budget"], "budget"),
        algorithm=instantiated(search["algorithm"], "search.algorithm"),
        ask=checked(search["ask"], int, "search.ask"),
        executor=instantiated(config["executor"], "executor"),
        constraints=config["constraints"],
        front_points=config["front_points"],
        recommend=Recommend(
            **{name: checked(value, float, f"recommend.{name}") for name, value in config["recommend"].items()}
        ),
        scored_picks=config["evaluate"]["picks"],
        profile_only=config["profile_only"],
        plan=config["plan"],
        compared=config["compare"],
        tracker=config["tracker"],
        stored=config,
        arguments=arguments,
    )
    settings.check()
    return settings


@dataclass(frozen=True)
class DashboardSettings:
    """What `dashboard.py` is told; see `search.views.dashboard.serve.serve`."""

    run_dir: Path
    host: str
    port: int
    token: str | None
    include_path: str | None
    places: Sequence[str]


def dashboard_settings(config: Config, arguments: Sequence[str]) -> DashboardSettings:
    """The settings of a dashboard.

    Args:
        config: Of `dashboard.py`.
        arguments: Of the command line that gave it.

    Raises:
        UserError: A setting is of another kind, or there is no such port.
    """
    port = checked(config["port"], int, "port")
    require_port(port)
    token = config["token"]
    return DashboardSettings(
        run_dir=Path(str(config["run_dir"])),
        host=str(config["host"]),
        port=port,
        token=None if token is None else str(token),
        include_path=checked(config["include_path"], str | None, "include_path"),
        places=[argument for argument in arguments if argument.startswith(("model.path=", "data.path="))],
    )
