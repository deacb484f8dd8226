"""Parameters, multiply-accumulates and KV-cache bytes of a candidate: exact, free of charge and of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from evaluators.base import Measure
from evaluators.metrics import REMOVED, VOCABULARY_REMOVED, metric_named, metrics_named
from space.candidate import Candidate
from space.errors import UserError
from space.size import attention_weights, decoder_params, mlp_products, total_params, vocabulary_size
from space.spec import ModelSpec

METRICS = metrics_named("params", "decoder_params", REMOVED, "macs_per_token", "kv_bytes", "weights_bytes")


def macs_per_token(spec: ModelSpec, candidate: Candidate, *, context: int) -> int:
    """Multiply-accumulates for the `context`-th token of a sequence, the one that attends to `context` keys.

    Counted are the matrix products: every linear projection, the LM head, and the attention's scores and weighted sums
    of values; of a mixture of experts, those that the token goes through, and the router. Norms, activations, softmax,
    rotary embedding, biases and the embedding's look-up are not. The average token of a causal prefill attends to half
    as many keys. Sliding windows are ignored: every layer attends to all `context` keys.
    """
    count = vocabulary_size(spec, candidate) * spec.hidden * spec.use.writes
    for shape in candidate.layers:
        count += attention_weights(spec, shape.query_heads, shape.kv_heads)
        count += 2 * shape.query_heads * spec.head_dim * context
        count += mlp_products(spec, shape.mlp_channels, shape.expert_channels)
    return count


def kv_bytes(spec: ModelSpec, candidate: Candidate, *, context: int, bytes_per_element: int = 2) -> int:
    """Bytes of the KV cache after `context` tokens at batch size 1.

    Sliding windows are ignored: every layer keeps the keys and values of all `context` tokens. A model that does not
    write keeps none.
    """
    kv_heads = sum(spec.cached_heads(shape.query_heads, shape.kv_heads) for shape in candidate.layers)
    return 2 * kv_heads * spec.head_dim * context * bytes_per_element * spec.use.writes


def cost_measure(
    spec: ModelSpec,
    *,
    context: int,
    bytes_per_element: int = 2,
    file_bytes: Callable[[Candidate], int] | None = None,
) -> Measure:
    """The free metrics of a candidate.

    Args:
        spec: The dense model.
        context: Tokens in the KV cache, and keys that the counted token attends to.
        bytes_per_element: Of the weights and of the KV cache: 2 for bfloat16 and float16, 4 for float32.
        file_bytes: Bytes of a candidate's tensors in a file, where matrices have types; they are `weights_bytes` then.

    Returns:
        `params` (embeddings once when tied), `decoder_params`, `decoder_params_removed` (fraction of the dense
        decoder-layer parameters, 0 to 1), `macs_per_token`, `kv_bytes` and `weights_bytes`.

    Raises:
        UserError: `context` or `bytes_per_element` is not a positive whole number.
    """
    for name, value in (("context", context), ("bytes_per_element", bytes_per_element)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(
                f"cost: expected {name} to be a whole number of at least 1, got {value!r}. Set {name}=1 or more."
            )
    dense = decoder_params(spec, Candidate.dense(spec))

    def values(candidate: Candidate) -> Mapping[str, float]:
        if len(candidate.layers) != spec.layers:
            raise ValueError(f"cost: expected a candidate of {spec.layers} layers, got {len(candidate.layers)}.")
        kept = decoder_params(spec, candidate)
        return {
            "params": total_params(spec, candidate),
            "decoder_params": kept,
            "decoder_params_removed": 1 - kept / dense,
            "macs_per_token": macs_per_token(spec, candidate, context=context),
            "kv_bytes": kv_bytes(spec, candidate, context=context, bytes_per_element=bytes_per_element),
            "weights_bytes": file_bytes(candidate) if file_bytes else bytes_per_element * total_params(spec, candidate),
        }

    return Measure(metrics=METRICS, values=values)


def vocabulary_measure(spec: ModelSpec) -> Measure:
    """The part of the vocabulary that a candidate lacks, 0 to 1: what a space with smaller ones has besides."""

    def values(candidate: Candidate) -> Mapping[str, float]:
        return {VOCABULARY_REMOVED: 1 - vocabulary_size(spec, candidate) / spec.vocab}

    return Measure((metric_named(VOCABULARY_REMOVED),), values)
