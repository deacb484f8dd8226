"""What designs of all-MiniLM-L6-v2 keep: cosine to its embeddings of unseen text, step after step of their training.

    python -m benchmarks.embedders --sentences ../shared/data/corpus/valid.jsonl.gz [--designs 10x512 11x832]

Uniform designs, `heads x MLP channels` of each layer, take turns in the healing of the weights that they share, as in a
run; then each is refit and polished by itself, as in an export. All of it learns from the calibration part of the
embedded text. What is printed is the mean cosine on sentences of other documents, and on held-out windows of that text.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from conf.compose import composed
from conf.settings import session_settings
from evaluators.cost import macs_per_token
from evaluators.data.places import TextPlace
from evaluators.data.sources import read_documents
from evaluators.embeddings import embedded
from evaluators.paths import Paths, unseen
from evaluators.session import Session
from evaluators.training.healing import Healer
from evaluators.training.objectives import objective_of
from evaluators.training.recipes import Healing, Recovery
from evaluators.training.recovery import recover
from space.candidate import Candidate
from space.supernet.corrective_refit import correct

SENTENCES = 400
CHARACTERS = range(30, 300)  # of a sentence
TOGETHER = 3  # sentences of one document, at most


def sentences_of(path: str) -> list[str]:
    """Sentences of a file's documents, by marks that end them."""
    texts = (text for documents in read_documents(TextPlace(path=path)).values() for text in documents)
    split = (re.split(r"(?<=[.!?])\s+", text.replace("\n", " ")) for text in texts)
    return [each for parts in split for each in [p for p in parts if len(p) in CHARACTERS][:TOGETHER]][:SENTENCES]


def measure(arguments: argparse.Namespace, scratch: Path) -> None:
    """Trains the designs in a directory, and prints what they keep."""
    say = partial(Console(width=140).print, highlight=False)
    session = Session.open(session_settings(composed("model=minilm", "model.dtype=float32")), Paths(scratch / "run"))
    spec, supernet, text, length = session.spec, session.supernet, session.text, session.settings.text.length
    rows: list[list[int]] = session.loaded.tokenizer(sentences_of(arguments.sentences))["input_ids"]
    texts_of = {"sentences": rows, "windows": session.windows("heldout").tolist()}
    dense = {name: embedded(supernet.dense(), texts, spec.pooling) for name, texts in texts_of.items()}

    def cosines(model: Any) -> str:
        alike = {n: (embedded(model, t, spec.pooling) * dense[n]).sum(-1).mean().item() for n, t in texts_of.items()}
        return ", ".join(f"{name} {value:.4f}" for name, value in alike.items())

    shapes = [[int(count) for count in design.split("x")] for design in arguments.designs]
    designs = [Candidate.from_rows([(heads, heads, channels)] * spec.layers) for heads, channels in shapes]
    every = text.blocks("calibration", text.room("calibration", length), length)
    use = spec.use
    settings = Healing(tokens=arguments.healing).of_task(use)
    spread = every[torch.randperm(len(every), generator=torch.Generator().manual_seed(0))]
    healer = Healer(
        lambda: supernet, settings, lambda n: spread[:n], lambda: text.marks, scratch / "healed", lambda: unseen("")
    )
    healed = healer.heal(designs)
    whole = macs_per_token(spec, session.dense, context=length)
    for name, design in zip(arguments.designs, designs, strict=True):
        part = macs_per_token(spec, design, context=length) / whole
        say(f"{name}, {part:.2f} of the multiplications: before {cosines(supernet.view(design))}")
        say(f"  healed with {arguments.healing} tokens: {cosines(healed.view(design))}")
        (correction,) = correct(healed, [design], text.blocks("calibration", use.refit_windows, length))
        say(f"  refit on {use.refit_windows * length} tokens: {cosines(healed.view(design, correction))}")
        for rate in arguments.rates:
            recipe = Recovery(tokens=arguments.polish, learning_rate=rate).of_task(use)
            student = healed.view(design, correction, own=True)
            place = scratch / f"{name}-{rate}"
            stream = session.stream(recipe.data, recipe.seed)
            recover(student, supernet.dense(), stream, recipe, place, objective=objective_of(spec), kept=design.kept)
            say(f"  polished with {arguments.polish} tokens at {recipe.learning_rate:g}: {cosines(student)}")


def main() -> None:
    """Reads what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", required=True, metavar="FILE")
    parser.add_argument("--designs", nargs="+", default=["10x512", "11x832"], metavar="HEADSxCHANNELS")
    parser.add_argument("--healing", type=int, default=50_000, help="tokens, of all designs together")
    parser.add_argument("--polish", type=int, default=100_000, help="tokens of each design")
    parser.add_argument("--rates", nargs="+", type=float, default=[None], help="of the polish; the task's if not given")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        measure(arguments, Path(scratch))


if __name__ == "__main__":
    main()
