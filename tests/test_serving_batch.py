"""Sequences that join and leave a batch get the logits that they get alone, whatever the kind of family and subnet."""

from __future__ import annotations

from collections.abc import Callable

import torch
from conftest import fitting, random_tokens
from helpers_serving import CUT, greedy_alone

from serving.batch import Batch, Prefill
from space.candidate import Candidate
from space.supernet.supernet import Supernet

NEW = 12
BEGINS = {0: 3, 2: 17, 3: 9, 7: 5}  # step at which a sequence joins, to the tokens of its prompt
FIRST_IS_A_HOLE = Candidate.from_rows([[0, 0, 16], [4, 2, 48], [3, 3, 0], [0, 0, 0]])


def take(logits: torch.Tensor, alone: tuple[list[int], list[torch.Tensor]], written: list[int]) -> None:
    torch.testing.assert_close(logits, alone[1][len(written)], atol=1e-4, rtol=0)
    written.append(int(logits.argmax()))


@torch.inference_mode()
def test_a_batch_that_is_joined_and_left_changes_nothing(
    make_supernet: Callable[..., Supernet], unlike_family: str
) -> None:
    supernet = make_supernet(unlike_family)
    for candidate in (
        Candidate.dense(supernet.spec),
        fitting(unlike_family, CUT),
        fitting(unlike_family, FIRST_IS_A_HOLE),
    ):
        model = supernet.view(candidate)
        prompts = [random_tokens(1, length, seed=length)[0].tolist() for length in BEGINS.values()]
        alone = [greedy_alone(model, prompt, NEW) for prompt in prompts]
        batch, rows = Batch(model), list[int]()
        written: list[list[int]] = [[] for _ in prompts]

        sizes = set()
        for step in range(max(BEGINS) + NEW):
            if step in BEGINS:
                row = [*BEGINS].index(step)
                prefill = Prefill(model, prompts[row])
                while prefill.left:  # in pieces
                    logits = prefill.step(4)
                take(logits, alone[row], written[row])
                batch.join(prefill)
                rows.append(row)
            sizes.add(len(batch))
            if rows:
                for row, logits in zip(rows, batch.step([written[row][-1] for row in rows]), strict=True):
                    take(logits, alone[row], written[row])
                left = [place for place, row in enumerate(rows) if len(written[row]) < NEW]
                batch.keep(left)
                rows = [rows[place] for place in left]
        assert {1, 2, 3, 4} <= sizes
        assert written == [tokens for tokens, _ in alone]
