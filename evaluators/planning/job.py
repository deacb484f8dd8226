"""A run that is to be, and what its stages hold: free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from evaluators.settings import Settings
from evaluators.training.recipes import POLISH_BYTES, STATE_BYTES, Healing, Recovery
from evaluators.training.rows import fitting_row
from space.candidate import KINDS, Candidate
from space.size import decoder_params, layer_params, norm_params, total_params
from space.space import SearchSpace
from space.spec import ModelSpec
from space.supernet.sizes import ITEM_BYTES, Part, maps_bytes

Block = tuple[int, str, tuple[int, ...]]  # layer, kind and option


@dataclass(frozen=True)
class Stage:
    """A part of a run, and what is in memory when it takes the most.

    Attributes:
        title: Its name.
        host: What is in the host's memory; on a CPU all of it.
        device: What is in the device's, if that is another.
    """

    title: str
    host: tuple[Part, ...]
    device: tuple[Part, ...]


@dataclass(frozen=True)
class Job:
    """A run that is to be.

    Attributes:
        spec: The dense model.
        settings: Of its session.
        space: Its designs.
        dtype: What the model runs in.
        stored: What its checkpoint is in.
        files: Bytes of the checkpoint's files.
        base: Bytes of the process before it has read anything.
        on_host: Whether the device is the host itself.
        streamed: Whether layers wait on the host and pass the device.
        memory: Bytes of the device's memory; 0 where it is the host.
        healed: Designs that the supernet is healed through.
        varied: Of the different narrower blocks that random designs have, the part that those of a front have, which
            are dense in many layers; measured.
    """

    spec: ModelSpec
    settings: Settings
    space: SearchSpace
    dtype: str
    stored: str
    files: tuple[int, ...]
    base: int
    on_host: bool
    streamed: bool
    memory: int
    healed: int
    varied: float = 1 / 3

    @property
    def item(self) -> int:
        """Bytes of a number of the model."""
        return ITEM_BYTES[self.dtype]

    @cached_property
    def dense(self) -> Candidate:
        """The dense model."""
        return Candidate.dense(self.spec)

    @cached_property
    def designs(self) -> list[Candidate]:
        """Random ones, which stand for those that the search finds but for how much they differ, see `varied`."""
        return self.space.samples(max(self.healed, 1))

    @cached_property
    def share(self) -> float:
        """Of the decoder layers' parameters, that a design keeps."""
        kept = [decoder_params(self.spec, design) for design in self.designs]
        return sum(kept) / len(kept) / decoder_params(self.spec, self.dense)

    @property
    def healing(self) -> Healing | None:
        """The settings of healing, where the supernet is healed."""
        told = self.settings
        return told.distillation if told.training != "off" and isinstance(told.distillation, Healing) else None

    @property
    def timed(self) -> bool:
        """Whether latency is timed here; a model that does not fit on its device needs a table of another."""
        return self.settings.latency.table is None and (self.on_host or not self.streamed)

    @cached_property
    def trained(self) -> dict[str, int]:
        """Parameters that each row of `SHARED_TRAINABLE` trains, without those of merged groups."""
        spec, layers = self.spec, self.dense.layers
        every = sum(layer_params(spec, layer) for layer in layers)
        matrices = replace(
            spec,
            qkv_bias=False,
            o_bias=False,
            mlp_bias=False,
            shared_biases=0,
            attention_norms=0,
            mlp_norms=0,
            layer_norms=0,
            block_scales=False,
            qk_norm=False,
        )
        small = every - sum(layer_params(matrices, layer) for layer in layers)
        outputs = spec.layers * spec.hidden * (spec.query_heads * spec.head_dim + spec.mlp_columns)
        rows = {"all": every, "outputs": outputs + small, "norms": small}
        return {row: count + norm_params(spec) for row, count in rows.items()}

    def trainable(self, healing: Healing) -> str:
        """The row that healing trains, as `evaluators.training.shared_training.trainable_row` chooses it."""
        weights = self.item * total_params(self.spec, self.dense)
        taken = {row: weights + count * (self.item + STATE_BYTES) for row, count in self.trained.items()}
        taken |= {row: taken[row] + maps_bytes(self.spec, self.dtype) for row in ("all", "outputs")}
        return fitting_row(healing, None if self.on_host or self.streamed else self.memory, taken.__getitem__)

    def polished(self, recovery: Recovery) -> str:
        """The row that a pick's polish trains, as `evaluators.training.recovery.trained_row` chooses it."""
        weights = self.item * (total_params(self.spec, self.dense) + self.pick_params)
        taken = {row: weights + POLISH_BYTES * round(self.share * count) for row, count in self.trained.items()}
        return fitting_row(recovery, None if self.on_host else self.memory, taken.__getitem__)

    @property
    def pick_params(self) -> int:
        """Parameters of a design of middle size."""
        decoder = decoder_params(self.spec, self.dense)
        return total_params(self.spec, self.dense) - decoder + round(self.share * decoder)

    def blocks(self, designs: Sequence[Candidate]) -> set[Block]:
        """The different blocks of some designs: layer, kind and option."""
        return {
            (index, kind, shape.option(kind))
            for design in designs
            for index, shape in enumerate(design.layers)
            for kind in KINDS
        }
