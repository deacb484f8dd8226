"""What engines take for granted of a Llama: SwiGLU, one of three rotary embeddings, full attention."""

from __future__ import annotations

from typing import Any

from space.errors import UserError

ROTARY = ("default", "linear", "llama3")


def require_llama_arithmetic(config: Any, form: str, rotary: tuple[str, ...] = ROTARY) -> None:
    """Refuses a model that a format has no words for.

    Args:
        config: The dense model's transformers config.
        form: The format, for the message.
        rotary: Types of rotary embedding that it has.

    Raises:
        UserError: Its activation or its rotary embedding is another.
    """
    rope = config.rope_parameters
    if config.hidden_act != "silu":
        raise UserError(
            f"Expected the activation silu, the only one of format={form}, got {config.hidden_act}. "
            "Export it with format=hf."
        )
    if rope.get("rope_type") not in rotary or rope.get("partial_rotary_factor", 1) != 1:
        raise UserError(
            f"Expected a rotary embedding of type {', '.join(rotary)} for format={form}, got {rope}. "
            "Export it with format=hf."
        )


def longest_context(config: Any) -> int:
    """Tokens up to which full attention is what the model does: all positions, or those inside a sliding window."""
    window = getattr(config, "sliding_window", None)
    return min(config.max_position_embeddings, window or config.max_position_embeddings)
