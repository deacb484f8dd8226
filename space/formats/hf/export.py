"""Writes a pruned model as a checkpoint directory that loads with transformers alone, verified before it appears."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.core_model_loading import revert_weight_conversion

from space.checks import dtype_name
from space.errors import ShapeError, UserError
from space.formats.checkpoint import (
    Subnet,
    checkpoint_parts,
    kept_shapes,
    write_checkpoint,
    write_companions,
    write_config,
)
from space.formats.hf.reload_check import in_float32
from space.formats.llama_arithmetic import longest_context
from space.formats.model_card import CHECKPOINT, FRONT_MATTER, Card, write_card
from space.formats.reference import reference_of
from space.formats.requirements import checked_in
from space.formats.reveal import revealed_when_complete
from space.formats.verify import Verification, verify_checkpoint
from space.formats.vllm.check import VLLMCheck, check_in_vllm, implementation_of, serve_command
from space.models.architectures import architecture_of
from space.models.language_part import LOADER, PIPELINE, Surroundings
from space.models.modeling import MODELING_FILE, WHOLE_FILE, modeling_text, whole_text
from space.models.pruned import checkpoint_config
from space.models.stack import loader_of
from space.spec import ModelSpec

_OWN_CODE = (
    "Its layers differ in size, so the checkpoint brings a small modelling file that subclasses the stock classes."
)
_PLAIN = "Its layers are equal, so it is a plain checkpoint of its family."


@dataclass(frozen=True)
class Export:
    """A finished checkpoint.

    Attributes:
        directory: Where it is.
        trust_remote_code: Whether it brings its own modelling file, because its layers are unequal.
        verification: How it compares with the model that it came from.
        loader: transformers' automatic class that loads it.
        serve: The command that serves it in vLLM; empty where none does.
        versions: Of transformers, in which that holds.
        in_vllm: What vLLM did with it, where that was asked for.
        carried: What it has beside the language part that was pruned, in words; empty where it is all that there is.
    """

    directory: Path
    trust_remote_code: bool
    verification: Verification
    loader: str
    serve: str
    versions: str
    in_vllm: VLLMCheck | None = None
    carried: str = ""

    def remarks(self) -> list[str]:
        """What a person should know of it, in lines."""
        flag = ", trust_remote_code=True" if self.trust_remote_code else ""
        unchecked = ["verify=vllm runs it in vLLM too, before it appears"] if self.serve else []
        load = f'exported; load with {self.loader}.from_pretrained("{self.directory}"{flag}), {self.versions}'
        return [
            *self.verification.remarks(),
            *(self.in_vllm.remarks() if self.in_vllm else unchecked),
            *([f"around the language part: {self.carried}; checked on text alone"] if self.carried else []),
            f"{load}; serve with: {self.serve}" if self.serve else load,
        ]


def check_hf(subnet: Subnet) -> None:
    """Refuses, before any work, what is no model.

    Raises:
        ShapeError: No layer keeps attention.
    """
    kept_shapes(subnet.candidate)


def check_hf_uniform(subnet: Subnet) -> None:
    """Refuses, before any work, what the family's stock classes do not load.

    Raises:
        ShapeError: No layer keeps attention, layers differ, or are equal in a way that the stock config does not take.
    """
    candidate, spec = subnet.candidate, subnet.spec
    kept = kept_shapes(candidate)
    if "auto_map" not in checkpoint_config(subnet.config, candidate, spec):
        return
    shapes = sorted({shape.row for shape in kept})
    raise ShapeError(
        "Expected a pick whose layers all keep the same, attention and MLP both, in numbers that the stock "
        f"{spec.family} config takes, for format=hf_uniform, but {candidate.key} has {len(shapes)} kinds of layers, of "
        f"query heads, KV groups and MLP channels {', '.join(map(str, shapes[:4]))}{' …' * (len(shapes) > 4)}. "
        "format=hf writes it, with a modelling file."
    )


def write_outline(directory: Path, subnet: Subnet, dtype: str) -> dict[str, Any]:
    """Writes what of a checkpoint is no weights, for an engine that makes some up.

    Args:
        directory: One that is there.
        subnet: What is written.
        dtype: Of the weights, as torch names it.

    Returns:
        The contents of config.json.

    Raises:
        ShapeError: No layer keeps attention.
    """
    kept_shapes(subnet.candidate)
    written = checkpoint_config(subnet.config, subnet.candidate, subnet.spec)
    write_config(directory, written, dtype)
    _write_code(directory, written, subnet.spec)
    return written


def _as_stored(state: Mapping[str, Tensor], spec: ModelSpec, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """A model's tensors as stock checkpoints of its family have them, which all versions of transformers read."""
    if spec.routed:  # each expert's by themselves
        with torch.device("meta"):
            stock = loader_of(spec.task).from_config(AutoConfig.for_model(**config))
        apart: dict[str, Tensor] = revert_weight_conversion(stock, dict(state))
        return apart
    name = architecture_of(spec.family).head
    return {name + key.removeprefix("lm_head") if key == "lm_head.weight" else key: state[key] for key in state}


def _write_code(
    directory: Path, written: Mapping[str, Any], spec: ModelSpec, surroundings: Surroundings | None = None
) -> None:
    if "auto_map" not in written:
        return
    (directory / f"{MODELING_FILE}.py").write_text(modeling_text(spec.family), encoding="utf-8")
    if surroundings is not None:
        whole = whole_text(type(surroundings.model.config), type(surroundings.model))
        (directory / f"{WHOLE_FILE}.py").write_text(whole, encoding="utf-8")


def export_checkpoint(
    model: nn.Module,
    subnet: Subnet,
    out_dir: Path,
    *,
    card: Card,
    tolerance: float = 1e-4,
    vllm: Path | None = None,
    release: Callable[[], object] | None = None,
) -> Export:
    """Writes, verifies and only then reveals a checkpoint.

    Args:
        model: The candidate, see `space.formats.checkpoint.checkpoint_parts`. Saved in its own dtype.
        subnet: What `model` is.
        out_dir: Must not exist, or be an empty directory.
        card: Further sections of the model card.
        tolerance: Largest difference that passes, see `verify_checkpoint`.
        vllm: Python of the environment with vLLM in which it is run too; None where it is not.
        release: Called where `model` is not needed any more, before a fresh process has the checkpoint in memory; may
            leave `model` useless. Not called with `vllm`, which it is compared with again.

    Raises:
        ShapeError: No layer keeps attention.
        UserError: `out_dir` is taken or cannot be written, or the checkpoint does not load or computes something else,
            in vLLM where that is asked for.
    """
    config, candidate, spec, around = subnet.config, subnet.candidate, subnet.spec, subnet.surroundings
    parts = checkpoint_parts(model, config, candidate)
    written = checkpoint_config(config, candidate, spec)
    own_code, loader = "auto_map" in written, spec.use.loader if around is None else LOADER
    if vllm is not None and own_code and spec.routed:
        raise UserError(f"verify: expected null for {candidate.key}, whose layers of unlike experts vLLM does not run.")
    if vllm is not None and around is not None:
        raise UserError("verify: expected null for the language part of a model, which vLLM does not run here.")
    if around is not None:
        state = around.tensors(parts.state, architecture_of(spec.family), stock=not own_code)
        written = around.values(written)
        front = card.get(FRONT_MATTER, {})
        assert isinstance(front, Mapping)
        about = {"Around the language part": {"carried as it is": around.remark}}
        card = {**card, FRONT_MATTER: {"pipeline_tag": PIPELINE, **front}, **about}
    else:
        state = dict(parts.state) if own_code else _as_stored(parts.state, spec, written)
    with revealed_when_complete(out_dir) as directory:
        write_checkpoint(directory, state, written, subnet.tokenizer, subnet.generation_config)
        _write_code(directory, written, spec, around)
        write_companions(directory, subnet.companions)
        reference = reference_of(model, spec)
        if release is not None and vllm is None:
            del parts, state
            release()
        verification = verify_checkpoint(
            directory, reference, trust_remote_code=own_code, tolerance=tolerance, task=spec.use, loader=loader
        )
        checks = {**card, "Checked on export, in float32": verification.rows()}
        in_vllm = None
        if vllm is not None:
            context, implementation = longest_context(config), implementation_of(written, spec.hidden)
            dtype = dtype_name(model.dtype)
            with in_float32(model):
                in_vllm = check_in_vllm(directory, model, subnet.tokenizer, implementation, dtype, context, vllm)
            checks["Checked on export, vLLM against the checkpoint in float32"] = in_vllm.rows()
        argument = ", trust_remote_code=True" if own_code else ""
        write_card(
            directory,
            spec,
            candidate,
            checks,
            kind=_OWN_CODE if own_code else _PLAIN,
            library="transformers",
            use=f'from transformers import {loader}\n\nmodel = {loader}.from_pretrained("{CHECKPOINT}"{argument})',
            serve=serve_command(CHECKPOINT, written, spec.hidden) if in_vllm else None,
            whole=around is None,
        )
    served = spec.use.writes and around is None and not (own_code and spec.routed)
    serve = serve_command(str(out_dir), written, spec.hidden) if served else ""
    versions, carried = checked_in(spec, whole=around is None), around.remark if around else ""
    return Export(out_dir, own_code, verification, loader, serve, versions, in_vllm, carried)
