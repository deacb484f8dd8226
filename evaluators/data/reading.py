"""What a run reads, by what its model does: text in tokens, perhaps with hidden words, or images."""

from __future__ import annotations

from functools import partial

from evaluators.data.images import ImageSplits, ImageStream
from evaluators.data.masking import MaskedSplits, MaskedStream
from evaluators.data.places import TextPlace
from evaluators.data.splits import TokenSplits, read_text
from evaluators.data.stream import TokenStream, training_stream
from space.errors import UserError
from space.models.images import image_shape
from space.models.loading import LoadedModel


def read_data(place: TextPlace, loaded: LoadedModel, digest: str | None) -> TokenSplits:
    """A run's text or images.

    Args:
        place: Where they are.
        loaded: The model.
        digest: That they must have; None for any.

    Raises:
        UserError: See `read_text` and `ImageSplits.read`; or images have another digest.
    """
    spec = loaded.spec
    if spec.use.reads == "text":
        text = read_text(place, loaded.tokenizer, vocab=spec.vocab, digest=digest)
        return text if spec.mask_token is None else MaskedSplits.of(text, spec.mask_token)
    images = ImageSplits.read(place, loaded.processor, image_shape(loaded.model.config, spec), spec.image_length)
    if digest is not None and images.digest != digest:
        raise UserError(
            f"Expected the images of the run, with the digest {digest}, but {place.path} has {images.digest}: they "
            "have changed, or are others. Set data.path to where the run's images are now."
        )
    return images


def read_stream(
    place: TextPlace, own: TextPlace, data: TokenSplits, loaded: LoadedModel, length: int, seed: int
) -> TokenStream:
    """Text or images for longer training.

    Args:
        place: Where they are; the run's own ones where it has no path.
        own: Where these are.
        data: The run's.
        loaded: The model.
        length: Tokens in a window.
        seed: Of the order.

    Raises:
        UserError: See `training_stream`; or images of another place are asked for.
    """
    if not isinstance(data, ImageSplits):
        place, mask = own if place.path is None else place, loaded.spec.mask_token
        kind = TokenStream if mask is None else partial(MaskedStream, mask=mask)
        return training_stream(place, data, length, loaded.tokenizer, vocab=loaded.spec.vocab, seed=seed, kind=kind)
    if place.path is not None:
        raise UserError(f"recover.data.path: expected null for {loaded.spec.use.title}, got {place.path}.")
    return ImageStream(data, seed)
