"""How long the stages of a run take, from the operations of each and a device's speed at a decoder layer.

Counted are products: 2 operations a multiplication, a backward pass twice as many as the forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf

from evaluators.base import GROUP
from evaluators.latency.labels import timed_options
from evaluators.latency.workload import BETWEEN_DENSE, LONG_CALLS, LONG_S, REPEATS, WARM
from evaluators.planning.job import Job
from evaluators.speeds import Speeds
from evaluators.training.recipes import Distillation
from space.size import attention_weights, decoder_params, mlp_products
from space.supernet.recipe import STRIDES
from space.supernet.sizes import layer_bytes, map_bytes

EXACT = 0.29  # of the speed of plain products in float32, that inverses and factors reach
LAYER_S = 0.5  # of a layer's calibration, that take small products, and files
WAITED = 2.5  # times what a token's weights take to be read, that it takes to write a token
IMPORTS_S = 10.0  # that a command takes before it reads anything
READ_BYTES = 1e9  # of a checkpoint that are read in a second, each twice: for its digest, and for what is no number
ASKING_S = 0.1  # that a surrogate takes for a question, about, with its fits
SWEPT = 0.25  # of the whole stack, that a block's stack takes, on average over its levels
LEARNED = 3  # times the operations of a forward pass that it takes with its backward pass


@dataclass(frozen=True)
class Pace:
    """What a device does in a second.

    Attributes:
        passing: Operations of products in forward passes of a decoder layer, in the run's dtype.
        learning: The same with its backward pass.
        exact: Operations of plain products in float32.
        read: Bytes of weights that go through a product with one token.
        moved: Bytes that come to the device from the host; 0 where that is the device.
    """

    passing: float
    learning: float
    exact: float
    read: float
    moved: float = 0.0


def forward_work(job: Job, share: float = 1.0) -> float:
    """Operations of a token's pass through the decoder layers of which a share is left."""
    spec = job.spec
    attention = spec.layers * attention_weights(spec, spec.query_heads, spec.kv_heads)
    layers = attention + sum(mlp_products(spec, shape.mlp_channels) for shape in job.dense.layers)
    scores = 2 * spec.query_heads * spec.head_dim * job.settings.text.length / 2  # the average token sees half of them
    return 2 * share * (layers + spec.layers * scores)


def head_work(job: Job) -> float:
    """Operations of a token's pass through the output matrix."""
    return 2.0 * job.spec.vocab * job.spec.hidden


def load_s(job: Job) -> float:
    """Seconds until model and text are read."""
    return IMPORTS_S + 2 * sum(job.files) / READ_BYTES


def calibration_s(job: Job, pace: Pace, most: float = inf) -> float:
    """Seconds of the calibration, were it not in the cache.

    Args:
        job: The run.
        pace: Of the device.
        most: For which it reads less text, see `space.supernet.affordable`.
    """
    text = job.settings.text
    times = [_calibration_s(job, pace, text.calibration_windows * text.length / stride) for stride in STRIDES]
    return next((time for time in times if time <= most), times[-1])


def _calibration_s(job: Job, pace: Pace, tokens: float) -> float:
    spec, channels = job.spec, job.spec.mlp_columns
    columns, merges = spec.query_heads * spec.head_dim, len(spec.merged_kv_heads)
    attention = 2.0 * attention_weights(spec, spec.query_heads, spec.kv_heads)
    passes = tokens * (forward_work(job) / spec.layers + (2 + merges) * attention * bool(merges))
    grams = 2.0 * tokens * (channels**2 + columns**2 + merges * (columns**2 + spec.hidden * columns))
    # inverse 1, its updates 2/3 and more where it does not shrink, two factors and maps of 1/3 each
    orders = 2.6 * channels**3 + (4.0 + spec.queries_per_group / 3) * columns**3
    solving = 4.0 * merges * (columns**3 / 3 + spec.hidden * columns**2)
    layer_s = passes / pace.passing + grams / pace.exact + (orders + solving) / (EXACT * pace.exact)
    return spec.layers * (layer_s + LAYER_S) + moving_s(job, pace)


def moving_s(job: Job, pace: Pace) -> float:
    """Seconds in which all layers come to the device once."""
    return job.spec.layers * layer_bytes(job.spec, job.dtype) / pace.moved if job.streamed and pace.moved else 0.0


def passed_s(job: Job, pace: Pace, kind: str, batch: int, tokens: int, share: float = 1.0) -> float:
    """Seconds of one timed pass of a model with a share of the decoder layers, up to its logits."""
    rows = batch * (tokens if kind == "prefill" else 1)
    read, worked = job.item * decoder_params(job.spec, job.dense) / pace.read, rows * forward_work(job) / pace.passing
    seen = rows if job.settings.latency.logits == "all" else batch
    head = max(job.item * job.spec.vocab * job.spec.hidden / pace.read, seen * head_work(job) / pace.passing)
    return share * max(read, worked) + head + moving_s(job, pace)


def timed_s(job: Job, pace: Pace, share: float = 1.0) -> float:
    """Seconds of one timing of a model with a share of the decoder layers, in all that is timed."""
    seconds = 0.0
    for phase in job.settings.latency.phases.values():
        passed = passed_s(job, pace, phase.kind, phase.batch_size, phase.tokens, share)
        seconds += passed * (WARM + REPEATS[phase.kind] if passed < LONG_S else LONG_CALLS)
    return seconds


def table_s(job: Job, pace: Pace, most: float = inf) -> float:
    """Seconds of the latency table, were nothing known of it before.

    Args:
        job: The run.
        pace: Of the device.
        most: In which its rounds end, but for the first.
    """
    workload = job.settings.latency
    if not job.timed:
        return 0.0
    stacks = sum(len(timed_options(kind, options)) for kind, options in job.space.block_options.items()) + 1
    whole = workload.fit + workload.check
    between = (stacks + whole) / BETWEEN_DENSE + 1
    round_s = stacks * timed_s(job, pace, SWEPT) + whole * timed_s(job, pace, job.share) + between * timed_s(job, pace)
    return round_s * max(1, min(workload.rounds, most // round_s))


def evaluation_speed(job: Job, pace: Pace) -> float:
    """Tokens a second of a design's evaluation."""
    text = job.settings.text
    worked = (forward_work(job, job.share) + head_work(job)) / pace.passing
    return 1 / (worked + moving_s(job, pace) / (GROUP * text.windows["search"] * text.length))


def training_speed(job: Job, pace: Pace) -> dict[int, float]:
    """Tokens a second of what follows the cached refit, by windows of a step; empty where nothing does."""
    told, text = job.settings, job.settings.text
    teacher = forward_work(job) + 2 * head_work(job)
    student = LEARNED * forward_work(job, job.share) + 2 * head_work(job)
    if (healing := job.healing) is not None:
        tokens = healing.step_windows * text.length
        levels = 0.0
        if job.trainable(healing) != "norms":
            blocks = job.blocks([job.designs[0].unrounded])  # what is trained is not rounded
            maps = sum(map_bytes(job.spec, job.dtype, kind, option) for _, kind, option in blocks)
            levels = job.varied * LEARNED * 2 * job.spec.hidden * maps / job.item / tokens
        stepped = 32 * job.trained[job.trainable(healing)] / pace.read / tokens  # what the optimizer reads and writes
        waited = 2 * moving_s(job, pace) / tokens
        worked = teacher / pace.passing + (student + levels) / pace.learning
        return {healing.step_windows: 1 / (worked + stepped + waited)}
    if isinstance(told.distillation, Distillation) and told.training != "off":
        return {told.distillation.batch_size: pace.learning / student}  # lessons are made once
    if told.correction is not None:
        return {1: 1 / _corrected_s(job, pace, told.correction.windows * text.length)}
    return {}


def _corrected_s(job: Job, pace: Pace, tokens: int) -> float:
    """Seconds a token of the corrective refit of a design, on so many tokens."""
    spec = job.spec
    fits, solving = 0.0, 0.0
    for whole in (spec.mlp_columns, spec.query_heads * spec.head_dim):
        columns = job.share * whole
        fits += 2 * spec.layers * columns * (columns + spec.hidden)
        solving += spec.layers * (columns**3 + 10 * spec.hidden * columns**2)  # in float64, at half of float32's speed
    passes = forward_work(job) + forward_work(job, job.share) + fits
    return passes / pace.passing + 2 * solving / (EXACT * pace.exact) / tokens


def speeds(job: Job, pace: Pace, long: bool, prepared: float) -> Speeds:
    """Speeds as a run measures them before its search, from operations instead.

    Args:
        job: The run.
        pace: Of the device.
        long: Whether held-out text has long windows too.
        prepared: Seconds of calibration and latency table, see `calibration_s` and `table_s`.
    """
    workload, told = job.settings.latency, job.settings
    evaluation = evaluation_speed(job, pace)
    writing = told.samples.tokens * WAITED * passed_s(job, pace, "decode", len(told.samples.prompts), 1)
    timing = timed_s(job, pace, job.share) + timed_s(job, pace) / BETWEEN_DENSE
    return Speeds(
        elapsed_s=load_s(job) + prepared,
        evaluation={told.evaluators.together: evaluation},
        long=evaluation if long else 0.0,
        training=training_speed(job, pace),
        timing_s=workload.front_rounds * timing if job.timed else 0.0,
        writing_s=writing if told.samples.prompts else 0.0,
        asking=((0, 0.0), (1, ASKING_S)),
    )


def tuned_tokens(job: Job) -> int:
    """Tokens of text that what follows the cached refit takes of one design; 0 where designs are not tuned alone."""
    told, text = job.settings, job.settings.text
    if job.healing is not None:
        return 0
    own = told.distillation if told.training != "off" and isinstance(told.distillation, Distillation) else None
    stages: Sequence[int] = own.tokens if own else ()
    step = text.length * (own.batch_size if own else 1)
    refit = told.correction.windows * text.length if told.correction else 0
    return refit + ceil(max(stages, default=0) / step) * step
