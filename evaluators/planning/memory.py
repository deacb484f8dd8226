"""What a run holds in memory and on disk, stage by stage, from its settings and a model's numbers alone; torch-free.

Sizes of tensors follow from their shapes. Two things do not, and are what was measured: the process before it has read
anything, and what the allocator keeps of memory that calibration gave back.
"""

from __future__ import annotations

from dataclasses import replace

from evaluators.latency.workload import models_together
from evaluators.planning.job import Job, Stage
from evaluators.planning.parts import (
    batch_parts,
    codes_of_types,
    dense_side,
    kept,
    masked_logits,
    narrower_blocks,
    shared_streams,
    slice_bytes,
    solved_bytes,
    stage_of,
    step_activations,
    timed_parts,
    weights,
)
from evaluators.settings import Settings
from evaluators.training.recipes import CORRECTED_AT_ONCE, POLISH_BYTES, STATE_BYTES, Distillation, Healing, Recovery
from space.size import decoder_params, total_params
from space.spec import ModelSpec
from space.supernet.sizes import (
    Part,
    activation_bytes,
    calibration_parts,
    is_merged,
    layer_bytes,
    map_bytes,
    owned_bytes,
    projection_params,
    solving_bytes,
    supernet_bytes,
    total,
)

_SMALLER = {"all": "distillation.trainable=outputs", "outputs": "distillation.trainable=norms", "norms": ""}
HEALED = 12  # designs that a supernet is healed through, where nothing says it


def stages(job: Job, recovery: Recovery | None = None) -> list[Stage]:
    """The stages of a run and of the export of one pick, in their order.

    Args:
        job: The run.
        recovery: How the pick is polished; None for not at all.
    """
    run = [_load(job), _calibration(job), *_table(job), _search(job)]
    run += [_healing(job, job.healing)] if job.healing else _tuning(job)
    return [*run, _end(job), *([_polish(job, recovery)] if recovery else []), _export(job)]


def least_on_device(spec: ModelSpec, settings: Settings, dtype: str, *, on_host: bool = False) -> Stage:
    """The stage that takes the most of a device that layers pass one at a time, with what it holds there.

    Args:
        spec: The dense model.
        settings: Of the session.
        dtype: What the model runs in.
        on_host: Whether the device is the host itself, with a limit as if it were another.
    """
    job = Job(spec, settings, settings.space(spec), dtype, dtype, (0,), 0, on_host, True, 0, HEALED)
    run = [_calibration(job), *_table(job), _search(job)]
    run += [_healing(job, job.healing)] if job.healing else _tuning(job)
    return max([*run, _end(job)], key=lambda stage: total(stage.device))


def on_disk(job: Job) -> list[Part]:
    """What the run writes that is large."""
    sets = 1 if job.healing is None else 3  # of weights: dense, healed, and half healed
    solved = Part("solved refits, until the run ends, up to", sets * solved_bytes(job), "supernet.disk_bytes")
    parts = [Part("supernet/", supernet_bytes(job.spec, job.dtype, read=bool(job.space.types))), solved]
    if (healing := job.healing) is not None:
        count = job.trained[job.trainable(healing)]
        state = Part(
            "healed/, while it is trained", count * (job.item + 2 * STATE_BYTES), _SMALLER[job.trainable(healing)]
        )
        parts.append(state)
    return [*parts, Part("an export", job.item * job.pick_params)]


def _load(job: Job) -> Stage:
    return Stage(
        "load", (Part("Python, torch and transformers", job.base), Part("a file of the checkpoint", max(job.files))), ()
    )


def _calibration(job: Job) -> Stage:
    text, recipe = job.settings.text, job.settings.supernet
    home, device = weights(job, layer=False)
    mapped = sum(sorted(job.files)[-2:])  # a file stays mapped until all that it holds is placed
    if job.dtype != job.stored or not (job.on_host or job.streamed):
        host = [Part("what is mapped of the checkpoint", mapped)]
    else:
        host = []
    streams = Part(
        "residual streams of the calibration text",
        8 * text.calibration_windows * text.length * job.spec.hidden,
        "data.calibration_windows",
    )
    batch = min(recipe.batch_size, text.calibration_windows) * text.length
    limit, read = "supernet.batch_size", bool(job.space.types)
    layer = calibration_parts(job.spec, job.dtype, batch, steps=recipe.steps, batch_size=limit, read=read)
    return stage_of(job, "calibration", [*home, streams], [*device, *layer], [*kept(job), *host])


def _table(job: Job) -> list[Stage]:
    if not job.timed:
        return []
    home, device = weights(job)
    params, kind = total_params(job.spec, job.dense), job.settings.latency.engine
    engines = {
        "llamacpp": Part("llama.cpp's models", 2 * params * (1 + models_together(params))),
        "vllm": Part("vLLM's two models", 2 * job.item * params),
    }
    engine = [engines[kind]] if kind in engines else []
    blocks = narrower_blocks(job, sliced=True)
    return [stage_of(job, "latency table", [*home, blocks], [*device, *timed_parts(job)], [*kept(job), *engine])]


def _search(job: Job) -> Stage:
    windows = job.settings.text.windows["search"]
    home, device = weights(job)
    streams = shared_streams(job, windows)
    work = [*device, dense_side(job, 2 * windows, "data.search_windows"), *batch_parts(job, windows)]
    return stage_of(job, "search", [*home, narrower_blocks(job), *codes_of_types(job), streams], work, kept(job))


def _healing(job: Job, healing: Healing) -> Stage:
    spec, length, row = job.spec, job.settings.text.length, job.trainable(healing)
    blocks = job.blocks([design.unrounded for design in job.designs])  # what is trained is not rounded
    merged = sum(
        projection_params(spec, *option)
        for _, kind, option in blocks
        if kind == "attention" and is_merged(spec, option)
    )
    count = job.trained[row] + (round(job.varied * merged) if row == "all" else 0)
    home, device = weights(job)
    narrower = narrower_blocks(job)
    if not job.streamed:  # all designs are at hand
        held = sum(owned_bytes(spec, job.dtype, kind, option) for _, kind, option in blocks)
        designs = Part("narrower blocks of the designs", round(job.varied * held), "search.algorithm.healed")
        narrower = max(narrower, designs, key=lambda part: part.bytes)
    maps = sum(map_bytes(spec, job.dtype, kind, option) for _, kind, option in blocks) if row != "norms" else 0
    tokens = healing.step_windows * length
    activations = step_activations(job, tokens)
    if job.streamed:  # those of one layer, and the stream before each
        waiting = job.item * spec.layers * tokens * spec.hidden
        device = [*device, Part("gradients and level of a layer", 2 * layer_bytes(spec, job.dtype))]
        activations = [
            Part("activations of a step", activations[0].bytes // spec.layers + waiting, activations[0].setting)
        ]
    activations += masked_logits(job, tokens, "data.length")
    home = [
        *home,
        narrower,
        Part(
            f"weights in training ({row}), gradients and optimizer",
            count * (2 * job.item + STATE_BYTES),
            _SMALLER[row],
        ),
        Part("maps from dropped to kept columns", round(job.varied * maps), "search.algorithm.healed"),
    ]
    slices = Part("a slice of the logits", slice_bytes(job))
    solving = Part("the solving of one refit", solving_bytes(spec, job.dtype))
    one = max(slices, solving, key=lambda part: part.bytes)  # a layer's map is solved while no logits are held
    return stage_of(job, "healing", home, [*device, *activations, one], kept(job))


def _tuning(job: Job) -> list[Stage]:
    """Of designs by themselves, where anything follows the cached refit."""
    told, spec, text = job.settings, job.spec, job.settings.text
    own = told.distillation if told.training != "off" and isinstance(told.distillation, Distillation) else None
    if told.correction is None and own is None:
        return []
    home, device = weights(job)
    work: list[Part] = []
    if (correction := told.correction) is not None:
        tokens, channels = correction.windows * text.length, spec.mlp_columns or spec.query_heads * spec.head_dim
        streams = job.item * tokens * ((CORRECTED_AT_ONCE + 2) * spec.hidden + channels)
        home = [*home, Part("residual streams of the corrective refit", streams, "correction.windows")]
        columns = round(job.share * channels)  # halves, both and what float64 solves with
        moments = 28 * columns**2 + 36 * spec.hidden * columns
        work = [Part("moments and solving of the corrective refit", moments)]
    if own is not None:
        count = job.trained.get(own.trainable, 0)
        student = Part("a design in training", job.item * job.pick_params + count * (job.item + STATE_BYTES))
        training = [student, *step_activations(job, own.batch_size * text.length)]
        work = max(work, training, key=total)
    return [stage_of(job, "tuning", [*home, narrower_blocks(job)], [*device, *work], kept(job))]


def _end(job: Job) -> Stage:
    text, spec = job.settings.text, job.spec
    home, device = weights(job)
    if (healing := job.healing) is not None:
        home = [*home, _learned(job, healing)]
    windows = text.windows["search"]
    longest = max(text.length * min(job.settings.evaluators.together, text.heldout_windows), text.long or 0)
    held = Part("activations of a batch", activation_bytes(spec, job.dtype, longest), "data.long")
    home = [*home, narrower_blocks(job), *codes_of_types(job), shared_streams(job, windows)]
    references = dense_side(job, text.heldout_windows + 2 * windows, "data.heldout_windows")
    solving = Part("the solving of one refit", solving_bytes(spec, job.dtype))
    timed = timed_parts(job) if job.timed else []
    work = [*device, references, max([held, solving, *timed], key=lambda part: part.bytes)]
    return stage_of(job, "end of the run", home, work, kept(job))


def _pick(job: Job) -> list[Part]:
    """What one design has beside the dense model."""
    blocks = job.blocks(job.designs[:1])
    held = sum(owned_bytes(job.spec, job.dtype, kind, option) for _, kind, option in blocks)
    learned = [_learned(job, job.healing)] if job.healing else []
    return [Part("narrower blocks of the pick", round(job.varied * held)), *learned]


def _learned(job: Job, healing: Healing) -> Part:
    """Healed weights; those of which designs that lack little take half are as many once more."""
    row = job.trainable(healing)
    return Part("healed weights", 2 * job.item * job.trained[row], _SMALLER[row])


def _polish(job: Job, recovery: Recovery) -> Stage:
    row, decoder = job.polished(recovery), round(job.share * decoder_params(job.spec, job.dense))
    count = decoder if row == "all" else round(job.share * job.trained[row])
    home, device = weights(job)
    embedding = job.spec.hidden * job.spec.vocab
    owned = (POLISH_BYTES + (job.item if job.dtype == "bfloat16" else 0)) * count  # with what autocast keeps of a step
    owned += 4 * embedding if job.item < 4 else 0
    if job.streamed:
        owned += job.item * (job.pick_params - count)
    student = Part(f"what is trained of the pick ({row}), gradients and optimizer", owned, "polish.minutes=0")
    (activations,) = step_activations(job, recovery.together * job.settings.text.length, "recover.batch_size")
    activations = replace(activations, bytes=round(job.share * activations.bytes))
    words = masked_logits(job, recovery.together * job.settings.text.length, "recover.batch_size")
    return stage_of(job, "export: polish", [*home, *_pick(job)], [*device, student, activations, *words])


def _export(job: Job) -> Stage:
    """The pick is written, then read again by a fresh process when this one holds no model: the larger of the two."""
    home, device = weights(job)
    pick = job.item * job.pick_params
    rest = 4 * (job.pick_params - round(job.share * decoder_params(job.spec, job.dense)))
    rest += layer_bytes(job.spec, "float32")
    own = [] if job.on_host and not job.streamed else [Part("the pick on the host", pick)]
    work = Part("embeddings, head and a layer in float32", rest)
    writing = stage_of(job, "export: check", [*home, *_pick(job), work], device, own)
    check = Part("a fresh process with the pick", job.base + pick + rest)
    checking = stage_of(job, "export: check", [], [], [check])
    return max(writing, checking, key=lambda stage: total(stage.host))
