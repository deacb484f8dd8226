"""What does not apply to the task of a session's model, said before any work begins."""

from __future__ import annotations

from evaluators.settings import Settings
from evaluators.training.recipes import Distillation
from space.errors import UserError
from space.spec import ModelSpec
from space.task import Task


def require_applicable(settings: Settings) -> None:
    """Refuses what a model that does not write cannot do.

    Raises:
        UserError: It is to decode, to run in an engine that has no such models, to write samples, to read long windows
            for their perplexity, to answer lm-eval, or to be trained each design by itself.
    """
    task, latency = settings.model.use, settings.latency
    _require(task, "latency.scenario", latency.scenario, task.scenarios)
    _require(task, "latency.engine", latency.engine, task.engines)
    if task.writes:
        return
    refused = {
        "evaluate.tasks": ("[]", settings.tasks.tasks),
        "samples.prompts": ("[]", settings.samples.prompts),
        "space.vocabulary": ("[]", "levels" if settings.chooses_vocabulary else None),
        "data.long": ("null", settings.text.long),
        "distillation": ("default", "own" if isinstance(settings.distillation, Distillation) else None),
    }
    for key, (wanted, got) in refused.items():
        if got:
            raise UserError(
                f"{key}: expected {wanted} for {task.title}, got {got}. {task.settings} has the settings that apply."
            )


def require_of_model(settings: Settings, spec: ModelSpec) -> None:
    """Refuses what a model cannot be asked for.

    Raises:
        UserError: It has no such space, or is a mixture of experts that is to be timed in an engine that does not run
            layers with numbers of experts of their own.
    """
    engine = settings.latency.engine
    if spec.routed and engine != "torch":
        raise UserError(
            f"latency.engine: expected torch for a mixture of experts, as {spec.name} is one, got {engine}."
        )
    settings.space(spec)


def _require(task: Task, key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{key}: expected {' or '.join(known)} for {task.title}, got {value}.")


def require_writer(settings: Settings, what: str) -> None:
    """Refuses a command that has a model write.

    Raises:
        UserError: The model does not.
    """
    task = settings.model.use
    if not task.writes:
        raise UserError(f"Expected the run of a model that writes, to {what}, but this one is of {task.title}.")
