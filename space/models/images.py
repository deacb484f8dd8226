"""Images as a model reads them: their size, and how many tokens they are to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from space.errors import UserError
from space.models.architectures import architecture_of
from space.spec import ModelSpec


def image_shape(config: Any, spec: ModelSpec) -> tuple[int, int, int]:
    """Channels, height and width of the images that a model reads."""
    height, width = (spec.image_size, spec.image_size) if spec.image_size else _pair(config.image_size)
    return config.num_channels, height, width


def with_image_size(spec: ModelSpec, config: Any, processor: Any) -> ModelSpec:
    """The facts of a model with the size of images that its processor makes, where the model takes any.

    Args:
        spec: The model, as its configuration says it.
        config: Its configuration.
        processor: transformers' image processor, or None.

    Raises:
        UserError: They are not of one size, not square, or not whole patches.
    """
    if processor is None or not architecture_of(spec.family).any_size:
        return spec
    (height, width), (down, across) = _pair(config.image_size), _pair(config.patch_size)
    blanks = [np.zeros((*sides, config.num_channels), np.uint8) for sides in ((height, width), (height, 2 * width))]
    try:
        sizes = {tuple(processor([blank], return_tensors="np")["pixel_values"].shape[2:]) for blank in blanks}
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            f"Expected the image processor of {spec.name} to take images of {config.num_channels} channels, but got: "
            f"{error}. Mend its preprocessor_config.json."
        ) from error
    side = min(sizes)[0]
    if sizes != {(side, side)} or side % down or side % across:
        said = " and ".join(f"{rows} x {columns}" for rows, columns in sorted(sizes))
        raise UserError(
            f"Expected the image processor of {spec.name} to make square images of one size, of whole patches of "
            f"{down} x {across} pixels, but it makes {said}. Have it crop (crop_size in preprocessor_config.json)."
        )
    if (side, side) == (height, width):
        return spec
    before = spec.image_length - (height // down) * (width // across)  # tokens before those of patches
    return replace(spec, image_size=side, image_tokens=(side // down) * (side // across) + before)


def _pair(size: Any) -> tuple[int, int]:
    """Height and width, of both or of one number for both."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width
