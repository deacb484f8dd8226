"""A run's images in its parts, and as a model reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from evaluators.data.image_sources import SUFFIXES, Images, image_source
from evaluators.data.labels import class_of
from evaluators.data.places import Part, TextPlace
from evaluators.data.shards import Shard
from evaluators.data.sources import Source
from evaluators.data.splits import TokenSplits
from evaluators.data.stream import TokenStream
from space.errors import UserError

_BATCH = 16  # images that a model with labels is asked about at once


@dataclass(frozen=True, eq=False)
class ImageSplits(TokenSplits):
    """Images in the parts of a run, in an order that is drawn with the same seed each time.

    Each image counts as one token whose id is its number; windows are of one, and become pixels when they are taken.

    Attributes:
        images: What they are read from.
        processor: transformers' image processor of the model.
        size: Channels, height and width that the model reads.
        patches: Tokens that an image is to the model.
    """

    images: Images | None = None
    processor: Any = None
    size: tuple[int, int, int] = (3, 224, 224)
    patches: int = 1

    @classmethod
    def read(cls, place: TextPlace, processor: Any, size: tuple[int, int, int], patches: int) -> ImageSplits:
        """The images of a place, of which none is read yet.

        Raises:
            UserError: See `image_source`; or there are none.
        """
        images = image_source(place)
        if not len(images):
            raise UserError(f"Expected images ({', '.join(SUFFIXES)}) in {place.path}, found none.")
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        return cls({images.name: order}, images=images, processor=processor, size=size, patches=patches)

    @cached_property
    def digest(self) -> str:
        """16 hex digits over all images and what they are called or labelled."""
        assert self.images is not None
        digest = hashlib.sha256()
        for content in self.images.contents():
            digest.update(content)
        return digest.hexdigest()[:16]

    @property
    def sources(self) -> dict[str, int]:
        """How many tokens the images are, of their one place."""
        return {name: count * self.patches for name, count in super().sources.items()}

    def room(self, part: Part, length: int) -> int:
        """How many images a part has."""
        return super().room(part, 1)

    def shares(self, part: Part, windows: int, length: int) -> dict[str, int]:
        """How many of `blocks` are of their one place."""
        return super().shares(part, windows, 1)

    def blocks(self, part: Part, windows: int, length: int) -> Tensor:
        """Images of one part, spread evenly over it, as the model reads them (images, channels, height, width).

        Raises:
            UserError: The part has fewer, or one cannot be read, or the processor makes another size of it.
        """
        room = self.room(part, 1)
        if windows > room:
            raise UserError(
                f"Expected {windows} {part} images, but of {len(self.images or ())} images that part has {room}. "
                f"Lower data.{part}_windows, or give more images."
            )
        return self.pixels(super().blocks(part, windows, 1).flatten().tolist())

    def pixels(self, numbers: Sequence[int]) -> Tensor:
        """Images by their numbers, as the model reads them; errors as of `blocks`."""
        assert self.images is not None
        raw = [self.images.raw(number) for number in numbers]
        try:
            pixels: Tensor = self.processor(raw, return_tensors="pt")["pixel_values"]
        except (ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"Expected images that the model's processor takes, but got: {error}") from error
        if tuple(pixels.shape[1:]) != self.size:
            raise UserError(
                f"Expected the model's processor to make images of {self.size} (channels, height, width), got "
                f"{tuple(pixels.shape[1:])}. Mend its preprocessor_config.json, or give images of that size."
            )
        return pixels

    def labelled(self, classes: Mapping[str, int], most: int) -> list[tuple[Tensor, Tensor]]:
        """Held-out images and their classes, in batches; none where no labels are known.

        Args:
            classes: See `evaluators.data.labels.class_of`.
            most: How many, at most.

        Raises:
            UserError: See `class_of` and `blocks`.
        """
        assert self.images is not None
        labels = self.images.labels
        if labels is None:
            return []
        (held,) = self.part("heldout").values()
        return [
            (self.pixels(part), torch.tensor([class_of(labels[i], classes, f"image {i}") for i in part]))
            for part in (batch.tolist() for batch in held[:most].split(_BATCH))
        ]


@dataclass(frozen=True)
class _Numbers:
    """The numbers of images for training, as documents."""

    name: str
    numbers: tuple[int, ...]

    @property
    def sources(self) -> Sequence[str]:
        return (self.name,)

    def documents(self, characters: int | None = None) -> Iterator[tuple[str, str]]:
        return ((self.name, str(number)) for number in self.numbers)


class ImageStream(TokenStream):
    """Images for longer training, without an end: those of calibration, each pass in an order of its own."""

    def __init__(self, images: ImageSplits, seed: int) -> None:
        """Begins at the beginning.

        Args:
            images: The run's.
            seed: Of the order.
        """
        ((name, numbers),) = images.part("calibration").items()
        shard: Shard = _Numbers(f"{name}, {images.digest}", tuple(numbers.tolist()))
        source = Source(shard.name, (shard,))
        super().__init__([source], lambda document, source: [int(document)], length=1, seed=seed)
        self.length, self._images = images.patches, images

    def __iter__(self) -> Iterator[Tensor]:
        """Images (channels, height, width)."""
        return (self._images.pixels(window.tolist())[0] for window in super().__iter__())
