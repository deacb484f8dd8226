"""What smaller vocabularies of a dense model lose on unseen text in bits a byte, and how they cut it.

    python -m benchmarks.vocabulary --count CORPUS ... --unseen TEXT --levels 41000 33000
        [--model embedded:gemma-3-270m] [--documents 3] [--length 1200] [--characters 5e7]
        [--train 3e5] [--rate 2e-4]

Tokens are ranked by their uses in CORPUS, alike of all its sources. Of every source of TEXT the first documents are
scored, each as a context of its own and to so many characters. All runs in float32. With --train, blocks learn to
write dropped tokens from so many tokens of CORPUS, as an export's do with vocabulary.tokens; else nothing is trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import torch
from rich.console import Console
from rich.table import Table

from evaluators.data.places import TextPlace
from evaluators.data.sources import text_sources
from evaluators.paths import Show, unseen
from evaluators.training.recipes import Recovery
from evaluators.vocabulary.bits import bits_per_byte
from evaluators.vocabulary.pieces import Pieces
from evaluators.vocabulary.ranked import Vocabulary, cut
from evaluators.vocabulary.spelling import Amount, learned_spelling
from space.candidate import Candidate
from space.formats.trimmed import trimmed_model
from space.locations import cache_dir
from space.models.loading import load_model
from space.size import total_params


def main() -> None:
    """Counts, trims, scores and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="in place of the default one")
    parser.add_argument("--count", nargs="+", required=True, help="text by which tokens are ranked")
    parser.add_argument("--unseen", required=True, help="text that is scored")
    parser.add_argument("--levels", nargs="+", type=float, required=True, help="parts of the tokens, or how many")
    parser.add_argument("--documents", type=int, default=3, help="of each source of the unseen text")
    parser.add_argument("--length", type=int, default=1200, help="characters of a document")
    parser.add_argument("--characters", type=float, default=5e7, help="that are counted, at most")
    parser.add_argument("--train", type=float, default=0, help="tokens in which blocks learn to write dropped tokens")
    parser.add_argument("--rate", type=float, help="the learning rate of that, in place of the task's")
    arguments = parser.parse_args()
    console = Console(width=120)
    loaded = load_model(arguments.model, dtype="float32")
    model, spec = loaded.model.to(loaded.device, torch.float32), loaded.spec
    whole = Vocabulary(loaded, "--levels")
    place = TextPlace(path=arguments.count)
    ranked = whole.ranked(place, {}, arguments.characters, cache_dir(), unseen)
    texts = unseen_texts(arguments.unseen, arguments.documents, arguments.length)
    size = sum(len(text.encode()) for text in texts)
    console.print(f"{spec.name}; {ranked.tokens:,} tokens counted; {len(texts)} unseen texts of {size:,} bytes")
    dense = bits_per_byte(model, cut(whole.tokenizer, texts), texts, whole.start)
    heading = ("tokens kept", "parameters", "of all", "bits a byte", "more", "words cut otherwise", "more tokens")
    table = Table(*heading, *(["more, trained"] if arguments.train else []))
    recipe, amount = Recovery(learning_rate=arguments.rate).of_task(spec.use), Amount.of(arguments.train)
    candidate = Candidate.dense(spec)
    params = total_params(spec, candidate)
    table.add_row(f"{spec.vocab:,}", f"{params:,}", "1.000", f"{dense:.4f}", "", "", "")
    for level in arguments.levels:
        kept = ranked.levels.kept(ranked.levels.count(level, "--levels"))
        small = whole.small(kept)
        comparison = whole.compared(small, kept, texts)
        start = kept.index(whole.start)
        bits = bits_per_byte(trimmed_model(model, kept), cut(small, texts), texts, start)
        left = total_params(spec, replace(candidate, vocabulary=len(kept)))
        share, longer = f"{comparison.recut_share:.1%}", f"{comparison.longer:.1%}"
        cells = [f"{len(kept):,}", f"{left:,}", f"{left / params:.3f}", f"{bits:.4f}", f"{bits / dense - 1:+.2%}"]
        cells += [share, longer]
        if arguments.train:
            pieces, show = Pieces.between(whole.tokenizer, small, kept), _told(console)
            counted = arguments.characters
            contexts = whole.contexts(pieces, place, {}, counted, unseen, uses=amount.uses, windows=amount.windows)
            console.print(f"{len(contexts.uses):,} uses of {len(pieces.of):,} dropped tokens to learn from")
            taught = learned_spelling(model, pieces, contexts, whole.start, amount, recipe, show)
            bits = bits_per_byte(trimmed_model(taught, kept), cut(small, texts), texts, start)
            cells.append(f"{bits / dense - 1:+.2%}")
        table.add_row(*cells)
        console.print(*cells, highlight=False)
    console.print(table)


def _told(console: Console) -> Show:
    """Says how far training is, now and then."""

    def show(done: int, of: int) -> None:
        if done * 20 // of != (done - 1) * 20 // of:
            console.print(f"step {done} of {of}", highlight=False)

    return show


def unseen_texts(path: str, documents: int, length: int) -> Sequence[str]:
    """The first documents of every source of a text, cut to so many characters.

    Args:
        path: Of the text, as `data.path` takes it.
        documents: Of each source.
        length: Characters of each.
    """
    texts: list[str] = []
    for source in text_sources(TextPlace(path=path)):
        read = (text for number in range(len(source.shards)) for text in source.documents(number) if text)
        texts.extend(text[:length] for text in islice(read, documents))
    return texts


if __name__ == "__main__":
    main()
