"""KL of designs with types of matrices as the search sees it, and as llama.cpp computes it from their files.

    python -m benchmarks.bits_engine --run-dir RUN [--designs 10] [--tokens 48]

RUN is one with `space.types`. Random designs of its space are written as GGUF files, as an export writes them, and
llama.cpp gives the probabilities of all tokens behind each of the first tokens of a held-out window. The other side is
the supernet's view on the same tokens. llama.cpp rounds activations to eight bits where matrices have fewer, which the
search does not. What llama.cpp itself says is in RUN/llamacpp.log.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import IO

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from conf.settings import ended_settings
from evaluators.paths import Paths
from evaluators.session import Session
from search.run.finished import FinishedRun
from space.formats.gguf.design import design_codes, write_design
from space.formats.gguf.llamacpp_process import LlamaCppServer
from space.formats.gguf.tokenizer import gguf_tokenizer

FIRST = 8  # tokens in front of the first probabilities


def in_llamacpp(file: Path, tokens: list[int], vocab: int, log: IO[str]) -> Tensor:
    """Log-probabilities of every token behind each prefix, shape (prefixes, vocab).

    Args:
        file: A GGUF file.
        tokens: Of the text.
        vocab: Tokens of the model.
        log: Where llama.cpp's own lines go.
    """
    rows = torch.full((len(tokens) - FIRST, vocab), -torch.inf)
    with LlamaCppServer(str(file), len(tokens) + FIRST, torch.get_num_threads(), log) as server:
        for row, end in zip(rows, range(FIRST, len(tokens)), strict=True):
            answer = server.continued(tokens[:end], 1, n_probs=vocab, cache_prompt=True)
            top = answer["completion_probabilities"][0]["top_logprobs"]
            row[torch.tensor([each["id"] for each in top])] = torch.tensor([each["logprob"] for each in top])
    return F.log_softmax(rows, -1)


@torch.inference_mode()
def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--designs", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=48)
    arguments = parser.parse_args()
    run = FinishedRun.open(arguments.run_dir)
    session = Session.open(ended_settings(run, run.config), Paths(arguments.run_dir))
    supernet, tokens = session.supernet, session.windows("heldout")[:1, : arguments.tokens]
    described = gguf_tokenizer(session.loaded.tokenizer, session.spec.vocab)
    places = slice(FIRST - 1, arguments.tokens - 1)

    def said(model: torch.nn.Module) -> Tensor:
        return F.log_softmax(model(tokens).logits[0, places].float(), -1)

    dense = said(supernet.dense())
    table = Table("design", "KL, search", "KL, llama.cpp", "KL between them")
    console = Console(width=100)
    designs = [*session.space.rounded_ladder(), *session.space.samples(arguments.designs)][: arguments.designs]
    with (arguments.run_dir / "llamacpp.log").open("w") as log:
        for candidate in designs:
            own = said(supernet.view(candidate))
            with tempfile.TemporaryDirectory() as directory:
                codes = design_codes(supernet, candidate)
                file = write_design(Path(directory) / "design.gguf", supernet, candidate, "f16", described, codes)
                theirs = in_llamacpp(file, tokens[0].tolist(), session.spec.vocab, log)
            between = (own.exp() * (own - theirs)).sum(-1).mean()
            ours, engines = ((dense.exp() * (dense - each)).sum(-1).mean() for each in (own, theirs))
            cells = (candidate.key, f"{ours:.4f}", f"{engines:.4f}", f"{between:.4f}")
            table.add_row(*cells)
            console.print(*cells, highlight=False)
    console.print(table)


if __name__ == "__main__":
    main()
