"""What the modules of a model are called and how wide they are: what a row of its family is written from."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig

from space.candidate import Candidate
from space.errors import UserError
from space.models.architectures import ARCHITECTURES, model_type_of
from space.models.embedded import quiet_transformers
from space.models.facts import read_spec
from space.models.layout import Architecture
from space.models.refusals import UNREADABLE
from space.models.stack import row_of
from space.size import total_params
from space.task import TASKS

_NEAREST = 3  # rows that are named where none fits
# What reading a model by another's row raises.
_MISFITS = (UserError, AttributeError, ValueError, TypeError, IndexError)

Modules = dict[str, str]  # of a layer: what has tensors of its own, by path, and its class and their shapes


def anatomy(directory: Path, trust_remote_code: bool) -> Iterator[tuple[str, str]]:
    """What a row of a model's family would have to say, in lines, each with a title.

    Nothing where the model has a row that fits, or where transformers makes no model of the configuration.

    Args:
        directory: With its configuration.
        trust_remote_code: Whether code that comes with it may run.
    """
    try:
        with quiet_transformers():
            config: Any = AutoConfig.from_pretrained(
                directory, trust_remote_code=trust_remote_code, local_files_only=True
            )
            model = _on_meta(config, trust_remote_code)
    except UNREADABLE:
        return
    if not _is_known(model):
        yield from _lines(model)


def _on_meta(config: Any, trust_remote_code: bool) -> Any:
    """The model of a configuration without memory: of the class that it names if a task has that, else the stack."""
    loaders = [getattr(transformers, name) for name in dict.fromkeys(task.loader for task in TASKS.values())]
    known = [loader for loader in loaders if type(config) in loader._model_mapping]
    named = [each for each in known if each._model_mapping[type(config)].__name__ in (config.architectures or ())]
    loader = next(iter((*named, *known)), transformers.AutoModel)
    with torch.device("meta"):
        return loader.from_config(config, trust_remote_code=trust_remote_code)


def _is_known(model: Any) -> bool:
    try:
        read_spec(model, "", "", row_of(model.config))
    except _MISFITS:
        return False
    return True


def _lines(model: Any) -> Iterator[tuple[str, str]]:
    config, stack = model.config, getattr(model, model.base_model_prefix, model)
    yield "module", type(model).__module__.removeprefix("transformers.models.").partition(".")[0]
    path, layers = max(_lists(stack), key=lambda found: len(found[1]), default=("", nn.ModuleList()))
    if not len(layers):
        yield "layers", "none that are in a list: such a model has no row"
        return
    yield "classes", ", ".join(type(each).__name__ for each in (config, layers[0], stack, model))
    code = f"{inspect.getsourcefile(type(layers[0]))}:{inspect.getsourcelines(type(layers[0]))[1]}"
    yield "layer's code", f"{code}: what of it is added to the residual stream, and which norm is where"
    yield "stack", f"{model.base_model_prefix if stack is not model else 'the model itself'}; in it"
    yield "  layers", f"{path}, {len(layers)} of them"
    for name, child in stack.named_children():
        held = _modules(child, name)
        if name != path.partition(".")[0] and held:
            yield f"  {name}", "; ".join(f"{place}: {what}" for place, what in held.items())
    head = model.get_output_embeddings()
    yield "head", next((name for name, module in model.named_modules() if module is head), "none")
    values = {name: value for name, value in config.to_dict().items() if not name.startswith("_")}
    yield "sizes", ", ".join(f"{name}={value}" for name, value in values.items() if _is_size(name, value))
    by_layer = [name for name, value in values.items() if isinstance(value, list) and len(value) == len(layers)]
    if by_layer:
        yield "by layer", ", ".join(f"{name}={values[name]}" for name in by_layer)
    forms = [_modules(layer) for layer in layers]
    for form, run in groupby(range(len(forms)), lambda index: forms[index]):
        first, *others = run
        yield f"layers {first}-{others[-1]}" if others else f"layer {first}", type(layers[first]).__name__
        yield from ((f"  {place}", what) for place, what in form.items())
    yield from _rows(model, max(forms, key=forms.count))


def _lists(stack: nn.Module) -> Iterator[tuple[str, nn.ModuleList]]:
    """The lists of modules in a stack that are in no other, by their paths."""
    inside = "."
    for path, module in stack.named_modules():
        if isinstance(module, nn.ModuleList) and not path.startswith(inside):
            inside = f"{path}."
            yield path, module


def _modules(root: nn.Module, prefix: str = "") -> Modules:
    """What below a module has tensors of its own that a checkpoint holds."""
    held = {}
    for path, module in root.named_modules(prefix=prefix):
        stored = module._parameters | {
            name: buffer for name, buffer in module._buffers.items() if name not in module._non_persistent_buffers_set
        }
        shapes = [f"{name} {tuple(tensor.shape)}" for name, tensor in stored.items() if tensor is not None]
        if shapes:
            held[path or "(the layer)"] = f"{type(module).__name__}, {', '.join(shapes)}"
    return held


def _is_size(name: str, value: object) -> bool:
    return type(value) is int and value > 1 and not name.endswith("_token_id")


def _rows(model: Any, layer: Modules) -> Iterator[tuple[str, str]]:
    """Which rows have layers like a model's, by names and shapes of their modules and by all parameters."""
    fitting = [name for name in ARCHITECTURES if _fits(model, name)]
    if fitting:
        yield "rows that fit", f"{', '.join(fitting)}; by names and shapes, of which the layer's code says what they do"
        return
    apart = {name: _apart(row, layer) for name, row in ARCHITECTURES.items()}
    own = model.config.model_type  # of which there may be rows that do not fit
    for name in sorted(apart, key=lambda each: (model_type_of(each) != own, sum(map(len, apart[each]))))[:_NEAREST]:
        told = [f"{what} {', '.join(sorted(paths))}" for what, paths in zip(("lacks", "has"), apart[name], strict=True)]
        said = " and ".join(each for each, paths in zip(told, apart[name], strict=True) if paths)
        yield f"not {name}", f"its row {said}" if said else "other sizes, or other modules around the layers"


def _apart(row: Architecture, layer: Modules) -> tuple[set[str], set[str]]:
    """The modules of a layer that a row does not name, and those that it names and the layer lacks."""
    blocks, routed = row.blocks.values(), row.mlp.routed
    named = {layout.path(name) for layout in blocks for name in layout.weighted}
    named |= {*row.norms, *(norm for layout in blocks for norm in layout.norms)}
    named |= {row.attention.path(name) for name in row.qk_norms}
    named |= {row.mlp.path(routed.correction).rpartition(".")[0]} if routed and routed.correction else set()
    carried = tuple(map(row.mlp.path, routed.shared)) if routed else ()
    return {path for path in layer if path not in named and not path.startswith(carried)}, named - {*layer}


def _fits(model: Any, name: str) -> bool:
    """Whether a row would say all of a model, were it of the row's family."""
    config = model.config
    own, config.model_type = config.model_type, model_type_of(name)
    try:
        if own == config.model_type or row_of(config) != name:
            return False
        spec = read_spec(model, "", "", name)
        return total_params(spec, Candidate.dense(spec)) == sum(p.numel() for p in model.parameters())
    except _MISFITS:
        return False
    finally:
        config.model_type = own
