"""Writes a pruned model as a graph for ONNX Runtime or OpenVINO, which has run it before it appears."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from space.errors import UserError
from space.formats.checkpoint import Subnet, kept_shapes, write_tokenizer
from space.formats.model_card import Card, write_card
from space.formats.requirements import require_engine
from space.formats.reveal import revealed_when_complete
from space.formats.traced.check import TOLERANCE, EngineCheck, check_in_engine
from space.formats.traced.engines import ENGINES
from space.formats.traced.graph import cpu_copy

ROPE_TYPES = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class TracedExport:
    """A finished directory.

    Attributes:
        directory: Where it is.
        engine: Row of `ENGINES`.
        check: What the engine did with it.
    """

    directory: Path
    engine: str
    check: EngineCheck

    def remarks(self) -> list[str]:
        """What a person should know of it, in lines."""
        check, name = self.check, ENGINES[self.engine].name
        speed, torch_speed = check.speed, check.torch_speed
        return [
            f"run by {name} in a fresh process, in float32: {check.steps} greedy tokens, {check.ties} of them ties; "
            f"log-probabilities within {check.worst_difference:.2g} nats of the checkpoint (at most "
            f"{TOLERANCE.worst:g}), {check.mean_difference:.2g} on average (at most {TOLERANCE.mean:g})",
            f"{name}'s speed on this CPU: prompt {speed.prompt_tokens_per_s:.0f} tokens/s, decode "
            f"{speed.decode_tokens_per_s:.0f} tokens/s; torch's, in the checkpoint's dtype: "
            f"{torch_speed.prompt_tokens_per_s:.0f} and {torch_speed.decode_tokens_per_s:.0f}",
            f"exported: {self.directory}; its README.md has the lines that write text with it",
        ]


def check_traced(engine: str, subnet: Subnet) -> None:
    """Refuses, before any work, what cannot be traced for an engine, a row of `ENGINES`.

    Raises:
        ShapeError: No layer keeps attention.
        UserError: The rotary embedding chooses its frequencies by the length at hand, or there is no tokenizer.
    """
    kept_shapes(subnet.candidate)
    rope = getattr(subnet.config, "rope_parameters", None) or {}
    kinds = {each["rope_type"] for each in ((rope,) if "rope_type" in rope else rope.values())}
    if not kinds <= set(ROPE_TYPES):
        raise UserError(
            f"Expected a rotary embedding of one of the types {', '.join(ROPE_TYPES)} for format={engine}, got "
            f"{', '.join(sorted(kinds))}, which a graph of fixed operations cannot hold for every length. Export it "
            "with format=hf."
        )
    if subnet.spec.routed:
        raise UserError(
            f"Expected no mixture of experts for format={engine}, got a {subnet.spec.family}, whose tokens go ways of "
            "their own, which a graph of fixed operations does not hold. Export it with format=hf."
        )
    if subnet.tokenizer is None:
        raise UserError(f"Expected a model with a tokenizer for format={engine}, got none. Export it with format=hf.")


def write_graph(engine: str, model: nn.Module, directory: Path) -> None:
    """Writes a causal language model's graph into a directory, in float32 where the engine has it so.

    Args:
        engine: Row of `ENGINES`.
        model: Is not changed.
        directory: One that is there.
    """
    row, own = ENGINES[engine], cpu_copy(model)
    row.write(own.float() if row.float32 else own, directory)


def export_traced(
    engine: str,
    model: nn.Module,
    subnet: Subnet,
    out_dir: Path,
    *,
    card: Card,
) -> TracedExport:
    """Writes, verifies and only then reveals a directory with a graph, the tokenizer and a model card.

    Args:
        engine: Row of `ENGINES`.
        model: The candidate as a causal language model.
        subnet: What `model` is.
        out_dir: Must not exist, or be an empty directory.
        card: Further sections of the model card.

    Raises:
        ShapeError: As `check_traced`.
        UserError: As `require_engine` and `check_traced`; `out_dir` is taken or cannot be written; or the engine does
            not load the graph, or computes something else than the checkpoint.
    """
    require_engine(engine)
    check_traced(engine, subnet)
    row, limit = ENGINES[engine], subnet.config.max_position_embeddings
    with revealed_when_complete(out_dir) as directory:
        write_graph(engine, model, directory)
        write_tokenizer(directory, subnet.tokenizer)
        if subnet.generation_config is not None:
            subnet.generation_config.to_json_file(directory / "generation_config.json")
        check = check_in_engine(engine, directory, cpu_copy(model), subnet.tokenizer, limit)
        write_card(
            directory,
            subnet.spec,
            subnet.candidate,
            {**card, f"Checked on export, {row.name} against the checkpoint in float32": check.rows()},
            kind=row.kind,
            library=engine,
            use=row.use,
        )
    return TracedExport(out_dir, engine, check)
