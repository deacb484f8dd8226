"""Candidates a minute: views that share first layers, against one by one, deep copies that are sliced, and masks.

    python -m benchmarks.evaluation_speed --run-dir RUN [--candidates 60]

RUN is a run of run_search.py with search=surrogate. Its latest candidates at each fidelity are evaluated again, in the
order in which they were asked and on the text of that fidelity, and its sensitivity sweep at the cheapest one; nothing
is remembered from before. All ways compute the KL divergence to the dense model:

    shared    as the search does: views, residual streams shared over a trie of layers, loss in slices of the vocabulary
    alone     the same without sharing
    copied    a deep copy of the model with sliced weights for every candidate, loss over the whole vocabulary
    masked    the dense model with what the candidate lacks set to 0, loss over the whole vocabulary
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from conf.sessions import run_session
from conf.settings import stored_config
from evaluators.divergence import Divergence
from evaluators.refit_error import refit_error_measure
from search.surrogate.sensitivity import REFIT_ERROR, Sweep
from search.tables import tabulate
from space.candidate import Candidate
from space.supernet.supernet import Supernet
from space.supernet.units import attention_columns

Ask = Callable[[Candidate], float]


@contextmanager
def masked(supernet: Supernet, candidate: Candidate) -> Iterator[Any]:
    """The dense model, with the inputs of output projections that the candidate lacks set to 0."""
    spec, handles = supernet.spec, []
    for layer, shape in zip(supernet.model.model.layers, candidate.layers, strict=True):
        weight = layer.self_attn.o_proj.weight
        heads = torch.zeros(spec.query_heads * spec.head_dim, dtype=weight.dtype, device=weight.device)
        heads[attention_columns(spec, shape.queries_per_group)[: shape.query_heads * spec.head_dim]] = 1
        channels = torch.zeros(spec.mlp_channels, dtype=heads.dtype, device=heads.device)
        channels[: shape.mlp_channels] = 1
        for projection, mask in ((layer.self_attn.o_proj, heads), (layer.mlp.down_proj, channels)):
            handles.append(projection.register_forward_pre_hook(lambda _, inputs, mask=mask: (inputs[0] * mask,)))
    try:
        yield supernet.model
    finally:
        for handle in handles:
            handle.remove()


class WholeVocabulary:
    """KL to the dense model as it is usually written: teacher's log-probabilities in memory, all logits at once."""

    def __init__(self, supernet: Supernet, tokens: Tensor, batch_size: int) -> None:
        self._batches = tokens.split(batch_size)
        with torch.inference_mode():
            self._teacher = [self._log_probabilities(supernet.model, part) for part in self._batches]

    @torch.inference_mode()
    def __call__(self, model: Any) -> float:
        total = 0.0
        for tokens, teacher in zip(self._batches, self._teacher, strict=True):
            student = self._log_probabilities(model, tokens)
            total += F.kl_div(student, teacher, reduction="sum", log_target=True).item()
        return total / sum(part.numel() for part in self._batches)

    @staticmethod
    def _log_probabilities(model: Any, tokens: Tensor) -> Tensor:
        return model(tokens, use_cache=False).logits.float().log_softmax(-1).flatten(0, 1)


def by_views(divergence: Divergence, candidate: Candidate) -> float:
    return divergence(candidate)[0]


def by_copy(supernet: Supernet, whole: WholeVocabulary, candidate: Candidate) -> float:
    return whole(supernet.view(candidate, own=True))


def by_mask(supernet: Supernet, whole: WholeVocabulary, candidate: Candidate) -> float:
    with masked(supernet, candidate) as model:
        return whole(model)


def timed(ask: Ask, dense: Candidate, candidates: Sequence[Candidate]) -> tuple[float, list[float]]:
    """Seconds and values of asking about each, after the dense model, with which the teacher is computed."""
    ask(dense)
    start = time.perf_counter()
    values = [ask(candidate) for candidate in candidates]
    return time.perf_counter() - start, values


def main() -> None:
    """Times every way and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--candidates", type=int, default=60)
    arguments = parser.parse_args()
    session, config = run_session(arguments.run_dir), stored_config(arguments.run_dir)
    supernet, evaluators, space = session.supernet, session.settings.evaluators, session.space
    windows = session.windows("search")
    by_fidelity: dict[str, list[Candidate]] = {}
    for line in (arguments.run_dir / "archive.jsonl").read_text().splitlines()[1:]:
        record = json.loads(line)
        if record["fidelity"].startswith("search"):
            by_fidelity.setdefault(record["fidelity"], []).append(Candidate.from_json(record["candidate"]))
    errors = tabulate(space, refit_error_measure(supernet).values, [REFIT_ERROR])[REFIT_ERROR].steps
    sweep = Sweep(space, errors, config["search"]["algorithm"]["sweep_levels"]).designs
    jobs = {name: (_tokens(windows, name), answers[-arguments.candidates :]) for name, answers in by_fidelity.items()}
    jobs["sweep"] = (min((tokens for tokens, _ in jobs.values()), key=torch.numel), sweep)
    table = Table("candidates", "of", "tokens", "way", "seconds", "a minute", "against shared", "layers run")
    for name, (tokens, candidates) in jobs.items():
        shared = Divergence(
            supernet, tokens, batch_size=evaluators.together, cache_bytes=evaluators.cache_bytes // len(by_fidelity)
        )
        alone = Divergence(supernet, tokens, batch_size=evaluators.together)
        whole = WholeVocabulary(supernet, tokens, evaluators.together)
        for candidate in candidates:
            supernet.view(candidate)  # refits are solved once for all ways
        ways: dict[str, Ask] = {
            "shared": partial(by_views, shared),
            "alone": partial(by_views, alone),
            "copied": partial(by_copy, supernet, whole),
            "masked": partial(by_mask, supernet, whole),
        }
        reference, expected = 0.0, [0.0]
        for way, ask in ways.items():
            few = candidates if name != "sweep" or way in ("shared", "alone") else candidates[: arguments.candidates]
            seconds, values = timed(ask, session.dense, few)
            each = seconds / len(few)
            if way == "shared":
                reference, expected = each, values
            elif way == "alone":
                assert values == expected, "sharing changed a value"
            run = f"{shared.shared_layers:.2f}" if way == "shared" else ""
            cells = (f"{seconds:.1f}", f"{60 / each:.0f}", f"{each / reference:.2f} x as long", run)
            table.add_row(str(len(few)), name, str(tokens.numel()), way, *cells)
    Console(width=120).print(table)


def _tokens(windows: Tensor, fidelity: str) -> Tensor:
    """The text of a fidelity, which `evaluators.fidelities` names by the tokens of a window that it sees."""
    _, _, length = fidelity.partition("-")
    return windows[:, : int(length)] if length else windows


if __name__ == "__main__":
    main()
