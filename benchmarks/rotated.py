"""The same model in another basis: what rounding weights costs is measured on this one.

    python -m benchmarks.rotated --out DIR [--model DIR] [--seed 0]

The embedded model's weights were rounded to Q4_1 and its embedding to Q8_0 before it came here, so that rounding them
to these types again loses nothing, which is untrue of anyone's own model. Here norm gains are folded into the
projections behind them, the LM head is untied from the embedding, and the residual stream is turned by a random
orthogonal matrix. The function is the same, and no weight is on a grid any more.
"""

from __future__ import annotations

import argparse
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from space.errors import UserError
from space.models.loading import load_model
from space.models.stack import family_of, layers_of, norm_of

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # a norm before each block, RMSNorm without a bias
SAME = 1e-4  # largest difference of logits that passes
_TOKENS = (2, 64)


def main() -> None:
    """Loads, turns, compares and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new directory")
    parser.add_argument("--model", help="checkpoint in place of the default model")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    loaded = load_model(arguments.model, dtype="float32", device="cpu")
    model = loaded.model.float()
    tokens = torch.randint(loaded.spec.vocab, _TOKENS, generator=torch.Generator().manual_seed(0))
    before = _logits(model, tokens)
    rotate(model, arguments.seed)
    apart = float((_logits(model, tokens) - before).abs().max())
    if not apart <= SAME:
        raise UserError(f"Expected logits within {SAME:g} of the model's, got {apart:.2g}. Take one in float32.")
    model.save_pretrained(arguments.out)
    loaded.tokenizer.save_pretrained(arguments.out)
    print(f"{arguments.out}: logits within {apart:.1e}")


@torch.no_grad()
def rotate(model: Any, seed: int) -> None:
    """Puts a float32 causal LM's residual stream into another basis, in place; its head becomes one of its own.

    Args:
        model: Of a family whose norms are RMSNorm without a bias, one before each block.
        seed: Of the basis.

    Raises:
        UserError: The model is of another family.
    """
    if model.config.model_type not in FAMILIES:
        raise UserError(f"Expected a model of one of {', '.join(FAMILIES)}, got {model.config.model_type}.")
    hidden = model.config.hidden_size
    noise = torch.randn(hidden, hidden, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    basis, _ = torch.linalg.qr(noise)
    family, embedding = family_of(model), model.get_input_embeddings()
    head = nn.Linear(hidden, len(embedding.weight), bias=False)
    head.weight = nn.Parameter(model.get_output_embeddings().weight.clone(), requires_grad=False)
    model.lm_head, model.config.tie_word_embeddings = head, False
    for layer in layers_of(model):
        for layout in family.blocks.values():
            block = getattr(layer, layout.module)
            assert layout.before is not None
            norm = getattr(layer, layout.before)
            for projection in layout.inputs:
                _read(getattr(block, projection.name).weight, norm.weight, basis)
            norm.weight.fill_(1)
            output = getattr(block, layout.output)
            output.weight.copy_(basis.T @ output.weight.double())
            if output.bias is not None:
                output.bias.copy_(output.bias.double() @ basis)
    _read(head.weight, norm_of(model).weight, basis)
    norm_of(model).weight.fill_(1)
    embedding.weight.copy_(embedding.weight.double() @ basis)


@torch.inference_mode()
def _logits(model: Any, tokens: Tensor) -> Tensor:
    """Logits, (windows, tokens, vocabulary), computed in float64: what float32 weights lose shows, not the products."""
    logits: Tensor = deepcopy(model).double()(tokens).logits
    return logits


def _read(weight: Tensor, gain: Tensor, basis: Tensor) -> None:
    """Has a projection, (rows, hidden), read the turned stream through a norm without gain."""
    weight.copy_(weight.double() * gain.double() @ basis)


if __name__ == "__main__":
    main()
