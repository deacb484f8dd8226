"""Shorter texts of windows: what they keep, and that embedders learn from them, the same after a kill."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_tokens
from helpers_data import stream_of

from evaluators.data.cutting import cut
from evaluators.data.splits import TokenSplits
from evaluators.training.healing import Healer
from evaluators.training.objectives import objective_of
from evaluators.training.recipes import Healing, Recovery
from evaluators.training.recovery import recover
from space.candidate import Candidate
from space.models.stack import stack_of
from space.supernet.shared import SharedWeights
from space.supernet.supernet import Supernet

MakeSupernet = Callable[..., Supernet]
CUT = Candidate.from_rows([(6, 6, 48), (4, 4, 32), (6, 6, 16), (2, 2, 48)])
WINDOWS = torch.tensor([[1, 10, 11, 12, 13, 14, 15, 16, 2], [1, 20, 21, 22, 23, 24, 25, 26, 2]])


def test_texts_are_the_windows_text_between_their_marks() -> None:
    assert cut(WINDOWS, 1, (True, True)) is WINDOWS
    halves = [[1, 10, 11, 12, 2], [1, 13, 14, 15, 2], [1, 20, 21, 22, 2], [1, 23, 24, 25, 2]]
    assert cut(WINDOWS, 2, (True, True)).tolist() == halves
    assert cut(WINDOWS[:1], 2, (True, False)).tolist() == [[1, 10, 11, 12, 13], [1, 14, 15, 16, 2]]
    assert cut(WINDOWS[:1], 3, (False, False)).tolist() == [[1, 10, 11], [12, 13, 14], [15, 16, 2]]
    assert cut(WINDOWS[:1], 40, (True, True)).tolist() == [[1, token, 2] for token in range(10, 17)]


def test_a_text_says_what_its_windows_begin_and_end_with() -> None:
    ids = {"some": random_tokens(1, 60).flatten()}
    for start, end in ((None, None), (7, None), (7, 8)):
        text = TokenSplits(ids, start=start, end=end)
        window = text.blocks("calibration", 1, 9)[0].tolist()
        assert text.marks == (window[0] == start, window[-1] == end)


def test_embedders_are_healed_on_texts_of_several_lengths(
    make_supernet: MakeSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supernet, shapes, hidden = make_supernet("bert"), list[tuple[int, ...]](), SharedWeights.hidden

    def noting(self: SharedWeights, design: Candidate, tokens: torch.Tensor, streams: Any) -> torch.Tensor:
        shapes.append(tuple(tokens.shape))
        return hidden(self, design, tokens, streams)

    monkeypatch.setattr(SharedWeights, "hidden", noting)
    text, settings = (
        random_tokens(80, 14, seed=5),
        Healing(tokens=6 * 4 * 14, batch_size=4, trainable="norms", learning_rate=3e-4),
    )
    stage = partial(nullcontext, lambda done, of: None)
    Healer(lambda: supernet, settings, lambda count: text[:count], lambda: (True, True), tmp_path, stage).heal([CUT])
    assert objective_of(supernet.spec).texts == (1, 2, 4)
    assert shapes == [(4, 14), (8, 8), (16, 5)] * 2


def test_so_is_a_pick_which_goes_on_after_a_kill_at_the_same_length(
    make_supernet: MakeSupernet, tmp_path: Path
) -> None:
    supernet, tokens = make_supernet("bert"), random_tokens(40, 12, seed=5)
    settings = Recovery(tokens=10 * 48, batch_size=4, learning_rate=1e-3, save_tokens=5 * 48)

    def trained(place: str, on_progress: Callable[[Any], None], shapes: list[tuple[int, ...]]) -> Any:
        student = supernet.view(CUT, own=True)

        def note(module: Any, inputs: Any, named: Any) -> None:
            shapes.append(tuple(inputs[0].shape))

        stack_of(student).register_forward_pre_hook(note, with_kwargs=True)
        objective = objective_of(supernet.spec)
        recover(student, supernet.model, stream_of(tokens), settings, tmp_path / place, on_progress, objective)
        return {name: tensor.clone() for name, tensor in student.state_dict().items()}

    def kill(progress: Any) -> None:
        raise KeyboardInterrupt

    whole, killed, again = [], [], []
    expected = trained("whole", lambda progress: None, whole)
    assert whole == ([(4, 12), (8, 6), (16, 3)] * 4)[:10]
    with pytest.raises(KeyboardInterrupt):
        trained("killed", kill, killed)
    resumed = trained("killed", lambda progress: None, again)
    assert killed + again == whole
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.items())
