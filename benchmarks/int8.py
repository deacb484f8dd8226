"""torchao's int8 weight-only matrices on this device: whether they make torch faster, and what they lose.

    pip install torchao
    python -m benchmarks.int8 --model MODEL [--tokens 256] [--rounds 5]

Prefill of a prompt and decoding behind it, in turns with the model as it came, as `latency.engine=torch` times them: in
eager mode.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from rich.console import Console
from transformers import DynamicCache

from space.models.loading import load_model

DECODED = 8  # tokens of a timing


def seconds(work: Callable[[], Any]) -> float:
    """How long something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@torch.inference_mode()
def times(models: dict[str, Any], tokens: torch.Tensor, rounds: int) -> dict[str, tuple[float, float]]:
    """Median milliseconds of prefill and of a further token, by model, in turns."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for _ in range(rounds + 1):  # the first is to be warm
        for name, model in models.items():
            cache = DynamicCache()

            def prefill(model: Any = model, cache: Any = cache) -> None:
                model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)

            def decode(model: Any = model, cache: Any = cache) -> None:
                for _ in range(DECODED):
                    model(tokens[:, :1], past_key_values=cache, use_cache=True)

            found[name].append((1e3 * seconds(prefill), 1e3 * seconds(decode) / DECODED))
    medians = {
        name: [statistics.median(column) for column in zip(*rows[1:], strict=True)] for name, rows in found.items()
    }
    return {name: (prefill, decode) for name, (prefill, decode) in medians.items()}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise SystemExit("Expected torchao: pip install torchao.") from error
    loaded = load_model(arguments.model)
    dense = loaded.model.to(loaded.device, loaded.dtype).eval()
    rounded = copy.deepcopy(dense)
    quantize_(rounded, Int8WeightOnlyConfig())
    tokens = torch.randint(loaded.spec.vocab, (1, arguments.tokens), device=loaded.device)
    with torch.inference_mode():
        own, other = (model(tokens).logits.float().log_softmax(-1) for model in (dense, rounded))
    kl = float((own.exp() * (own - other)).sum(-1).mean())
    found = times({"as it came": dense, "int8": rounded}, tokens, arguments.rounds)
    console = Console(width=120)
    console.print(
        f"torchao {version('torchao')}, torch {torch.__version__}, {loaded.dtype}, {torch.get_num_threads()} threads"
    )
    for name, (prefill, decode) in found.items():
        console.print(f"{name}: prefill {prefill:.1f} ms, decode {decode:.1f} ms a token", highlight=False)
    (first, second), (third, fourth) = found.values()
    console.print(f"int8: {first / third:.2f} x and {second / fourth:.2f} x as fast; KL {kl:.4f}, on random tokens")


if __name__ == "__main__":
    main()
