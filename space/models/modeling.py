"""The modelling code of a family: the text that exports carry, with its own stock classes, and that as a module."""

from __future__ import annotations

import json
import linecache
import sys
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import ModuleType

from space.models.architectures import architecture_of
from space.models.layout import Architecture
from space.task import CAUSAL_LM, TASKS

MODELING_FILE = "modeling_pruned"
WHOLE_FILE = "modeling_whole"  # of a model of which that of a family is the language part
_CLASSIFIER = TASKS["text_classification"].pruned


def modeling_text(family_name: str) -> str:
    """The modelling file of a family's checkpoints: `modeling_pruned.py` with the names of its stock classes.

    Raises:
        UserError: There is no such family.
    """
    family, llama = architecture_of(family_name), architecture_of("llama")
    text = resources.files("space.models").joinpath(f"{MODELING_FILE}.py").read_text(encoding="utf-8")
    for kind, stock, name in zip(
        ("configuration", "modeling", "modeling"), llama.classes, family.classes, strict=False
    ):
        text = _replaced(text, _imported(llama, stock, kind), _imported(family, name, kind))
    writer = TASKS[CAUSAL_LM].pruned
    text = _with_classes(text, writer, {writer: family.classes.causal_lm} if family.classes.causal_lm else {}, family)
    text = _with_classes(text, _CLASSIFIER, _heads(family), family)
    for name, value in _constants(family).items():
        text = _replaced(text, f"\n{name} = {_constants(llama)[name]}", f"\n{name} = {value}")
    return text


def _heads(family: Architecture) -> dict[str, str]:
    """The family's classes with a head that do not write: by their name in the modelling file, the stock ones."""
    tasks = [TASKS[task] for task in family.tasks if TASKS[task].stock not in ("model", CAUSAL_LM)]
    heads = {task.pruned: family.classes.of(task) for task in tasks}
    if family.writes and family.classes.classifier is not None:
        heads[_CLASSIFIER] = family.classes.classifier
    return heads


def _imported(family: Architecture, name: str | None, kind: str = "modeling") -> str:
    """Where a line of the modelling file has a stock class from, up to its name there."""
    return f"from transformers.models.{family.module}.{kind}_{family.module} import {name} as "


def _with_classes(text: str, name: str, stocks: Mapping[str, str], family: Architecture) -> str:
    """The modelling file with a class, and the line that imports its stock one, once for each of a family's.

    Args:
        text: That of Llama, as far as the class goes.
        name: Of the class.
        stocks: By their own names, the stock classes of those in its place; perhaps none.
        family: Whose they are.
    """
    head, *classes = text.rstrip("\n").split("\n\n\nclass ")
    (place,) = (place for place, each in enumerate(classes) if each.startswith(f"{name}("))
    called, names = name.removeprefix("Pruned"), {own: own.removeprefix("Pruned") for own in stocks}
    classes[place : place + 1] = [classes[place].replace(called, names[own]) for own in stocks]
    (line,) = (line for line in head.splitlines(keepends=True) if line.endswith(f" as Stock{called}\n"))
    lines = [f"{_imported(family, stock)}Stock{names[own]}\n" for own, stock in stocks.items()]
    return "\n\n\nclass ".join([head.replace(line, "".join(lines)), *classes]) + "\n"


def _replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"{MODELING_FILE}.py must have one line with {old!r}"
    return text.replace(old, new)


def _constants(family: Architecture) -> dict[str, str]:
    """What the modelling file says of a family, as code."""
    quoted = [f'"{name}"' for name in family.sizes.names]
    return {
        "STACK": f'"{family.stack.module}"',
        "LAYERS": f'"{family.stack.layers}"',
        "SIZES": f"({', '.join(quoted)})",
        "RATIO": f'"{family.sizes.ratio or ""}"',
        "ATTENTION_OUTPUT": f'"{family.attention.output}"',
        "TRANSPOSED": f"{family.attention.transposed}",
        "QK_NORMS": f"{family.norms_inside}",
        "HEADS_FILL": f"{family.heads_fill}",
        "STAYING": json.dumps({kind: layout.inner or "" for kind, layout in family.blocks.items()}),
        "ADDS_IN_PLACE": f"{family.adds_in_place}",
        "MLP_IN_PAIRS": f"{family.mlp.paired}",
        "NUMBERED": f"{family.numbered}",
        "WRITES": f"{family.writes}",
        "LEAST": f"{family.transformers}",
    }


@cache
def modeling_of(family_name: str) -> ModuleType:
    """The modelling file of a family's checkpoints as a module: `PrunedConfig`, `PrunedForCausalLM` and their parts.

    Raises:
        UserError: There is no such family.
    """
    text = modeling_text(family_name)
    module = ModuleType(f"{MODELING_FILE}_{family_name}", f"The modelling file of pruned {family_name} checkpoints.")
    module.__file__ = f"{MODELING_FILE}_{family_name}.py"
    linecache.cache[module.__file__] = (len(text), None, text.splitlines(keepends=True), module.__file__)
    sys.modules[module.__name__] = module  # transformers looks a class's module up there
    exec(compile(text, module.__file__, "exec"), module.__dict__)
    return module


def auto_map(family_name: str) -> dict[str, str]:
    """Which class of a family's modelling file transformers' automatic classes take."""
    family = architecture_of(family_name)
    classes = {"AutoConfig": "PrunedConfig", "AutoModel": "PrunedModel"}
    classes |= {TASKS[task].loader: TASKS[task].pruned for task in family.tasks}
    if family.writes and family.classes.classifier is not None:
        classes[TASKS["text_classification"].loader] = _CLASSIFIER
    return {auto: f"{MODELING_FILE}.{name}" for auto, name in classes.items()}


def whole_text(config_class: type, model_class: type) -> str:
    """The modelling file of a model around a pruned language part: `modeling_whole.py` with its own stock classes.

    Args:
        config_class: Of the stock model's configuration.
        model_class: Of the stock model.
    """
    text = resources.files("space.models").joinpath(f"{WHOLE_FILE}.py").read_text(encoding="utf-8")
    text = _replaced(text, f"from space.models.{MODELING_FILE} import", f"from .{MODELING_FILE} import")
    for stock, name in ((config_class, "StockWholeConfig"), (model_class, "StockWhole")):
        (line,) = (line for line in text.splitlines() if line.endswith(f" as {name}"))
        text = _replaced(text, line, f"from {stock.__module__} import {stock.__name__} as {name}")
    return text


def whole_auto_map(loader: str) -> dict[str, str]:
    """Which class of that file transformers' automatic classes take."""
    return {"AutoConfig": f"{WHOLE_FILE}.PrunedWholeConfig", loader: f"{WHOLE_FILE}.PrunedWhole"}
