"""What a mixture of experts loses by fewer experts, by fewer channels of each, and with constants for those dropped.

    python -m benchmarks.experts --out DIR [--heldout 32] [--text TEXT.txt]

DIR gets a small Mixtral, unless there is one, trained for some minutes on the embedded text: 4 layers of 8 experts, two
for each token. Then all layers keep fewer experts, or fewer channels of each, and are compared on held-out text, before
any healing. Beside dropped experts, whose tokens go to others, stands what MoNE does: the router chooses among all
as before, and those whose outputs differ least from their mean on the calibration text give that mean.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

from conf.compose import composed
from conf.settings import session_settings
from evaluators.divergence import Divergence
from evaluators.paths import Paths
from evaluators.session import Session
from space.candidate import Candidate, LayerShape
from space.models.architectures import architecture_of
from space.models.embedded import default_texts
from space.models.stack import experts_of, layers_of
from space.size import removed_params
from space.supernet.supernet import Supernet

EXPERTS, CHANNELS, VOCABULARY = 8, 256, 1024
_STEPS, _BATCH, _LENGTH, _RATE = 1200, 8, 128, 3e-3
_EVERY = 100  # steps between two lines


def main() -> None:
    """Trains, scores and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="of the model and the prepared supernet")
    parser.add_argument("--text", type=Path, help="to calibrate and score on, instead of the embedded text")
    parser.add_argument("--heldout", type=int, default=32, help="windows to score on")
    arguments = parser.parse_args()
    model = arguments.out / "model"
    if not model.exists():
        train(model)
    overrides = [f"model.path={model}", f"data.heldout_windows={arguments.heldout}", "model.dtype=float32"]
    overrides += ["data.length=128", "data.long=null"]
    overrides += [f"data.path={arguments.text.resolve()}"] if arguments.text else []
    session = Session.open(session_settings(composed(*overrides)), Paths(arguments.out / "run"))
    spec, supernet = session.spec, session.supernet
    divergence = Divergence(supernet, session.windows("heldout"))
    outputs = gathered(supernet.dense(), session.windows("calibration"))
    title = ("kept in all layers", "decoder parameters", "KL", "perplexity", "KL, constants", "perplexity, constants")
    table = Table(*title, title=f"held-out text, {spec.name}, 8 experts of 256 channels, before any training")
    designs = [(EXPERTS, 0), (6, 0), (EXPERTS, 192), (4, 0), (EXPERTS, 128), (6, 160), (2, 0), (EXPERTS, 64)]
    for experts, channels in designs:
        shape = LayerShape(spec.query_heads, spec.kv_heads, experts, expert_channels=channels)
        candidate = Candidate((shape,) * spec.layers)
        values = [*divergence(candidate)]
        if experts < EXPERTS and not channels:
            values += divergence(candidate, with_constants(supernet, experts, outputs))
        cells = [
            f"{number:.3f}" if place % 2 == 0 else f"{math.exp(number):.1f}" for place, number in enumerate(values)
        ]
        said = f"{experts} experts" + (f" of {channels} channels" if channels else "")
        table.add_row(said, f"{1 - removed_params(spec, candidate):.1%}", *cells)
    Console(width=120).print(table)


def train(directory: Path) -> None:
    """A small Mixtral with a tokenizer of its own, on nine tenths of the embedded text."""
    torch.manual_seed(0)
    texts = [text[: len(text) * 9 // 10] for text in default_texts().values()]
    pairs = ByteLevelBPETokenizer()
    pairs.train_from_iterator(texts, vocab_size=VOCABULARY, special_tokens=["<end>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pairs._tokenizer, eos_token="<end>", bos_token="<end>")
    tokens = torch.cat([torch.tensor(pairs.encode(text).ids) for text in texts])
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 4}
    config = MixtralConfig(
        **heads,
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=CHANNELS,
        num_local_experts=EXPERTS,
        max_position_embeddings=1024,
        output_router_logits=True,
        router_aux_loss_coef=0.02,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = MixtralForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_STEPS)
    for step in range(_STEPS):
        starts = torch.randint(len(tokens) - _LENGTH, (_BATCH,)).tolist()
        batch = torch.stack([tokens[start : start + _LENGTH] for start in starts])
        loss = model(batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % _EVERY == 0:
            print(f"step {step} of {_STEPS}: loss {loss.item():.2f}", flush=True)
    model.config.output_router_logits = False
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _experts(model: Any) -> list[Any]:
    layout = architecture_of("mixtral").mlp
    return [experts_of(layer, layout) for layer in layers_of(model)]


class Outputs(NamedTuple):
    """What the experts of a layer give for the tokens routed to them.

    Attributes:
        mean: Shape (experts, hidden).
        spread: The sum of squared distances from the mean, each times the expert's squared weight for the token,
            shape (experts,): what is lost where the mean stands for them.
    """

    mean: Tensor
    spread: Tensor


@torch.inference_mode()
def gathered(model: Any, windows: Tensor) -> list[Outputs]:
    """By layer; in two passes over the text."""
    layers = range(len(layers_of(model)))
    sums = [torch.zeros(EXPERTS, model.config.hidden_size) for _ in layers]
    counts, spreads = [torch.zeros(EXPERTS, 1) for _ in layers], [torch.zeros(EXPERTS) for _ in layers]

    def passed(learn: Callable[[int, int, Tensor, Tensor], None]) -> None:
        handles = [
            experts.register_forward_hook(partial(_each_expert, partial(learn, place)))
            for place, experts in enumerate(_experts(model))
        ]
        for batch in windows.split(8):
            model(batch, use_cache=False)
        for handle in handles:
            handle.remove()

    def add(place: int, expert: int, outputs: Tensor, shares: Tensor) -> None:
        sums[place][expert] += outputs.sum(0)
        counts[place][expert] += len(outputs)

    passed(add)
    means = [total / count.clamp_min(1) for total, count in zip(sums, counts, strict=True)]

    def spread(place: int, expert: int, outputs: Tensor, shares: Tensor) -> None:
        spreads[place][expert] += ((outputs - means[place][expert]) * shares[:, None]).square().sum()

    passed(spread)
    return [Outputs(*pair) for pair in zip(means, spreads, strict=True)]


def _each_expert(
    learn: Callable[[int, Tensor, Tensor], None], module: Any, given: tuple[Tensor, ...], _: Tensor
) -> None:
    """Hands on what each expert gives for its tokens, before their weights for it, and these."""
    states, chosen, weights = given
    for expert in chosen.unique().tolist():
        token, place = torch.where(chosen == expert)
        ones = weights.new_ones(len(token), 1)
        learn(expert, module.forward(states[token], chosen[token, place][:, None], ones), weights[token, place])


def with_constants(supernet: Supernet, kept: int, outputs: Sequence[Outputs]) -> Any:
    """The dense model of which all but so many experts give their mean output: those of the least spread do."""
    model = supernet.view(Candidate.dense(supernet.spec), own=True)
    for experts, (mean, spread) in zip(_experts(model), outputs, strict=True):
        gone = spread.argsort()[: EXPERTS - kept]
        constant = torch.zeros_like(mean)
        constant[gone] = mean[gone]
        with torch.no_grad():
            experts.down_proj[gone] = 0

        def add(module: Any, given: tuple[Tensor, ...], output: Tensor, constant: Tensor = constant) -> Tensor:
            _, chosen, weights = given
            return output + (constant[chosen] * weights[..., None]).sum(1)

        experts.register_forward_hook(add)
    return model


if __name__ == "__main__":
    main()
