"""Trains a small vision transformer on scikit-learn's digits, 96 % of which it gets right: a real one to prune.

`python -m benchmarks.digits DIR` takes a minute on a CPU core. DIR has the checkpoint with its image processor, and
`heldout.npz`, the images that it was not trained on, to search with:

    python run_search.py model=image_classifier experiment=smoke data.length=17 latency.length=17 \
        model.path=DIR data.path=DIR/heldout.npz data.search_windows=64 data.heldout_windows=100 run_dir=results/digits
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

_STEPS, _BATCH, _RATE = 500, 64, 2e-3
_TRAINED = 1000  # images; the other 797 are held out


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="where the checkpoint goes")
    directory: Path = parser.parse_args().directory
    torch.manual_seed(0)
    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype(np.uint8)[..., None]  # (images, 8, 8, 1)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], digits.target[order]
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5])
    pixels = processor([*images], return_tensors="pt")["pixel_values"]
    targets = torch.from_numpy(labels)
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 256}
    config = ViTConfig(image_size=8, patch_size=2, num_channels=1, num_labels=10, **sizes)
    model = ViTForImageClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_STEPS)
    for _ in range(_STEPS):
        rows = torch.randint(_TRAINED, (_BATCH,))
        loss = F.cross_entropy(model(pixels[rows]).logits, targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.inference_mode():
        right = model(pixels[_TRAINED:]).logits.argmax(-1) == targets[_TRAINED:]
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    np.savez(directory / "heldout.npz", images=images[_TRAINED:], labels=labels[_TRAINED:])
    print(f"{right.float().mean():.1%} of {len(right)} held-out digits are right; the model is in {directory}")


if __name__ == "__main__":
    main()
