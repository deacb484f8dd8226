"""A tiny image classifier as a directory, and images as arrays and in folders, labelled by its own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import tiny_model
from PIL import Image
from transformers import ViTImageProcessorPil

from space.models.embedded import quiet_transformers


def save_image_classifier(directory: Path, family: str = "vit", side: int = 8, **changes: Any) -> Path:
    """A random classifier with a processor to so many pixels, and `images.npz` with arrays and labels."""
    model: Any = tiny_model(family, **changes)[0]
    processor = ViTImageProcessorPil(size={"height": side, "width": side}, image_mean=[0.5], image_std=[0.25])
    with quiet_transformers():
        model.save_pretrained(directory)
        processor.save_pretrained(directory)
    images = np.random.default_rng(0).integers(0, 256, (120, 8, 8, 1), dtype=np.uint8)
    pixels = processor([*images], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        labels = model(pixels).logits.argmax(-1).numpy()
    np.savez(directory / "images.npz", images=images, labels=labels)
    return directory


def save_folder(directory: Path, labels: int = 2, each: int = 10) -> Path:
    """Images of three channels in sub-folders that are named as classes."""
    generator = np.random.default_rng(0)
    for label in range(labels):
        (directory / f"LABEL_{label}").mkdir(parents=True)
        for number in range(each):
            pixels = generator.integers(0, 256, (10, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(directory / f"LABEL_{label}" / f"{number}.png")
    return directory
