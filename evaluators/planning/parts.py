"""What the stages of a run have in common: what of each is in memory, and where; free of torch.

Weights are *at home*, which is the device, or the host where layers pass the device one at a time; what a forward pass
or a solver works with is on the device. On a CPU the device is the host itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.base import GROUP
from evaluators.planning.job import Job, Stage
from space.size import total_params
from space.supernet.sizes import Part, activation_bytes, layer_bytes, layer_file_bytes, owned_bytes, solving_bytes
from space.task import STRETCH

KEPT_BYTES = 200 << 20  # text, tokenizer, and what the allocator keeps beside two layers' factors; measured
QUESTIONS = 330  # that a default search asks, about, each with half of its layers new


def slice_bytes(job: Job) -> int:
    """Of a slice of logits and the rows that they are of, see `evaluators.output_head`; 0 without an LM head."""
    if not job.spec.use.writes:
        return 0
    text, together = job.settings.text, job.settings.evaluators.together
    whole = 4 * job.spec.vocab * (together * text.length + job.spec.hidden)
    return min((8 if job.on_host else 512) << 20, whole)


def stage_of(
    job: Job, title: str, home: Sequence[Part], device: Sequence[Part] = (), host: Sequence[Part] = ()
) -> Stage:
    """With the process on the host, and what is at home where that is."""
    host = [Part("Python, torch and transformers", job.base), *host]
    if job.streamed:
        host += home
    else:
        device = [*home, *device]
    return Stage(
        title,
        tuple([*host, *device] if job.on_host else host),
        () if job.on_host and not job.streamed else tuple(device),
    )


def weights(job: Job, *, layer: bool = True) -> tuple[list[Part], list[Part]]:
    """What of the dense model is at home, and on the device besides."""
    spec, whole = job.spec, job.item * total_params(job.spec, job.dense)
    smaller = "model.dtype=bfloat16" if job.item == 4 else ""
    if not job.streamed:
        return [Part(f"weights in {job.dtype}", whole, smaller)], []
    head = job.item * spec.hidden * (spec.vocab + 1)
    passing = [Part("the layer at work", layer_bytes(spec, job.dtype), smaller)] if layer else []
    tied = " and embeddings" if spec.tied_embeddings else ""
    return [Part(f"weights in {job.dtype}", whole - head, smaller)], [Part(f"norm and LM head{tied}", head), *passing]


def kept(job: Job) -> list[Part]:
    """What calibration leaves in the host's memory."""
    return [
        Part("text, tokenizer, and memory that was given back", KEPT_BYTES + 2 * layer_file_bytes(job.spec, job.dtype))
    ]


def narrower_blocks(job: Job, *, sliced: bool = False) -> Part:
    """Narrower blocks in memory: those of the whole space, or as many as the limit allows."""
    limit = job.settings.supernet.refit_limit(job.item * total_params(job.spec, job.dense))
    return Part("narrower blocks", min(limit, _every_level(job, sliced=sliced)), "supernet.refit_bytes")


def codes_of_types(job: Job) -> list[Part]:
    """Codes of rounded blocks and the matrices of types around the layers, where designs have types."""
    types = len(job.space.types)
    if not types:
        return []
    limit = job.settings.supernet.refit_limit(job.item * total_params(job.spec, job.dense))
    outer = (2 - job.spec.tied_embeddings) * types * (job.item + 1) * job.spec.vocab * job.spec.hidden
    most = types * _every_level(job) // job.item
    return [Part("codes of rounded blocks", min(limit, most) + outer, "space.types")]


def solved_bytes(job: Job) -> int:
    """Solved levels of one set of weights on disk: those of the whole space, or as many as the limit allows."""
    limit = job.settings.supernet.disk_limit(job.item * total_params(job.spec, job.dense))
    return min(limit, _every_level(job))


def _every_level(job: Job, *, sliced: bool = False) -> int:
    return job.spec.layers * sum(
        owned_bytes(job.spec, job.dtype, kind, option, sliced=sliced)
        for kind, options in job.space.block_options.items()
        for option in options
    )


def shared_streams(job: Job, windows: int) -> Part:
    """Residual streams that candidates share; where layers are streamed, of the candidates that run together."""
    spec, length = job.spec, job.settings.text.length
    one = job.item * windows * length * spec.hidden
    if job.streamed:
        return Part("residual streams of candidates", 2 * GROUP * one, "data.search_windows")
    most = job.settings.evaluators.cache_bytes
    return Part(
        "residual streams of candidates", min(most, QUESTIONS * spec.layers // 2 * one), "evaluators.cache_bytes"
    )


def dense_side(job: Job, windows: int, setting: str) -> Part:
    """What is kept of the dense model for so many windows of text; its output matrix in order, where it is ranked."""
    if job.space.vocabulary:
        return Part("the output matrix by rank", job.item * job.spec.vocab * job.spec.hidden, "space.vocabulary")
    tokens = windows * job.settings.text.length * (1 + len(job.space.types))  # kept for each type of the output matrix
    return Part("the dense model's side of the text", 4 * tokens * job.spec.hidden, setting)


def step_activations(job: Job, tokens: int, setting: str = "data.length") -> list[Part]:
    """What a backward pass needs of a forward pass of all layers, as autograd keeps it."""
    spec, columns = job.spec, job.spec.query_heads * job.spec.head_dim
    heads = 2 * (columns + 2 * spec.kv_heads * spec.head_dim) + columns
    per_token = job.item * (4 * spec.token_channels + heads + 4 * spec.hidden) + 24 * spec.hidden
    return [Part("activations of a step", spec.layers * tokens * per_token, setting)]


def masked_logits(job: Job, tokens: int, setting: str) -> list[Part]:
    """Logits of the hidden words of so many tokens, the dense model's beside a design's, with their logarithms."""
    words = tokens // STRETCH + 1
    return [Part("logits of hidden words", 4 * 4 * words * job.spec.vocab, setting)] if job.spec.use.masks else []


def batch_parts(job: Job, windows: int) -> list[Part]:
    """What a forward pass of an evaluation works with."""
    text, batch = job.settings.text, min(job.settings.evaluators.together, windows)
    held = activation_bytes(job.spec, job.dtype, batch * text.length) + 8 * job.spec.hidden * batch * text.length
    return [
        Part("activations of a batch", held, "evaluators.batch_size"),
        *([Part("a slice of the logits", slice_bytes(job))] if job.spec.use.writes else []),
        *masked_logits(job, batch * text.length, "evaluators.batch_size"),
        Part("the solving of one refit", solving_bytes(job.spec, job.dtype)),
    ]


def timed_parts(job: Job) -> list[Part]:
    """What a timed pass takes: activations and, of models that write, the cache and logits."""
    workload, spec = job.settings.latency, job.spec
    parts = []
    for phase in workload.phases.values():
        new = phase.batch_size * (phase.tokens if phase.kind == "prefill" else 1)
        held = phase.batch_size * (phase.tokens + (phase.kind == "decode"))
        cache = 2 * job.item * spec.layers * spec.kv_heads * spec.head_dim * held
        logits = job.item * spec.vocab * (new if workload.logits == "all" else phase.batch_size)
        what, more = (
            (f"cache, activations and logits of a {phase.kind}", cache + logits)
            if spec.use.writes
            else ("activations of a forward pass", 0)
        )
        parts.append(Part(what, activation_bytes(spec, job.dtype, new) + more, "latency.batch_size"))
    return [max(parts, key=lambda part: part.bytes)]
