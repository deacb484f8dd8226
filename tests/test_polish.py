"""The polish of a pick: its steps in order, each better or taken back, the same after a kill, and none mixed."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_tokens
from helpers_data import stream_of

from evaluators.data.splits import TokenSplits
from evaluators.training.objectives import WORDS
from evaluators.training.polish import Polished, _prediction, polish
from evaluators.training.recipes import Polish, Recovery
from evaluators.training.recovery import Recovered
from space.candidate import Candidate
from space.errors import UserError
from space.supernet.supernet import Supernet

CUT = Candidate.from_rows([[6, 3, 16], [4, 2, 48], [0, 0, 24], [3, 3, 16]])
LENGTH = 12
STEP = 2 * LENGTH
TRAINING = Recovery(tokens=60 * STEP, learning_rate=3e-3, save_tokens=20 * STEP)


class Pick:
    """A pick of a run whose session is of a tiny model and random text."""

    def __init__(self, supernet: Supernet, directory: Path) -> None:
        self.supernet, self.directory = supernet, directory
        self.front = supernet.view(CUT)
        text = TokenSplits({"some": random_tokens(100, LENGTH, seed=5).flatten()})
        self.session: Any = SimpleNamespace(
            supernet=supernet,
            newest=lambda: supernet,
            spec=supernet.spec,
            dense=Candidate.dense(supernet.spec),
            text=text,
            windows=lambda part: text.blocks(part, 8, LENGTH),
            stream=lambda data, seed: stream_of(text.blocks("calibration", 60, LENGTH)),
            settings=SimpleNamespace(text=SimpleNamespace(length=LENGTH), correction=None),
            tuning=None,
            healer=None,
        )
        self.said: list[str] = []

    def polish(
        self, settings: Polish, training: Recovery, say: Callable[[str], None] = lambda line: None, place: str = "p"
    ) -> Polished:
        self.said.clear()

        def tell(line: str) -> None:
            self.said.append(line)
            say(line)

        def stage(title: str) -> Any:
            return nullcontext(lambda done, of: None)

        where = self.directory / place
        return polish(self.session, CUT, self.front, settings, training, where, tell, stage)

    def perplexity(self, model: Any) -> float:
        tokens = self.session.windows("heldout")
        with torch.inference_mode():
            logits = model(tokens).logits[:, :-1].float()
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).exp().item()


@pytest.fixture
def pick(make_supernet: Callable[..., Supernet], tmp_path: Path) -> Pick:
    return Pick(make_supernet("llama"), tmp_path)


def test_each_step_is_told_on_text_that_it_did_not_learn_from(pick: Pick) -> None:
    done = pick.polish(Polish(windows=30), TRAINING)
    heads = [line.split(":")[0] for line in pick.said]
    refit, trained = f"after a corrective refit on {30 * LENGTH} tokens", "after training on 1440 tokens"
    steps = [f"{count}/1440 tokens" for count in (480, 960, 1440)]
    assert heads == ["before", refit, *steps, trained, "after 10 times the training"]
    assert done.heldout["heldout_ppl"] == pytest.approx(pick.perplexity(done.model), rel=1e-4)
    assert done.facts["corrective refit"] == f"{30 * LENGTH} tokens"
    assert done.facts["training"] == "1440 tokens of some, all weights"
    front = f"heldout_ppl {pick.perplexity(pick.front):.4g}"
    assert done.facts["held-out before"].endswith(front)
    told = [done.facts[f"held-out {step}"] for step in ("before", refit, trained)]
    values = [float(fact.split()[1].strip(",")) for fact in told]
    assert values == sorted(values, reverse=True)
    assert f"{done.heldout['heldout_kl']:.4g}" in done.facts[f"held-out {trained}"]


def test_longer_training_is_foretold_where_a_loss_has_not_fallen_below_what_is() -> None:
    tokens = STEP * np.arange(1.0, 201)
    losses = 0.4 + 4e5 * tokens**-2
    done = Recovered(200 * STEP, (tokens, losses))
    assert "a loss of 0.4 on training text is predicted, now 0.4" in _prediction(done)
    losses[190:] = 0.33  # as of a learning rate that goes to nothing
    told = _prediction(replace(done, curve=(tokens, losses)))
    assert told.startswith("no prediction, as the loss ends at 0.375, and a power law")


def test_no_minutes_are_the_front_itself(pick: Pick) -> None:
    assert pick.polish(Polish(minutes=0), Recovery()) == Polished(pick.front)
    assert not [*pick.said, *pick.directory.glob("p*")]


def test_what_makes_a_pick_worse_is_taken_back(pick: Pick) -> None:
    refit = pick.polish(Polish(windows=30), replace(TRAINING, tokens=0)).model
    done = pick.polish(Polish(windows=30), replace(TRAINING, learning_rate=50.0), place="wild")
    assert any(line.startswith("training on 1440 tokens made the model worse and is taken back") for line in pick.said)
    assert "taken back: training on 1440 tokens" in done.facts
    assert all(torch.equal(tensor, refit.state_dict()[name]) for name, tensor in done.model.state_dict().items())
    assert done.heldout["heldout_ppl"] == pytest.approx(pick.perplexity(refit), rel=1e-4)


def test_minutes_become_tokens_once_and_a_kill_changes_nothing(pick: Pick) -> None:
    training, settings = replace(TRAINING, tokens=None, save_tokens=5 * STEP), Polish(minutes=0.01, windows=30)

    def kill_at(words: str) -> Callable[[str], None]:
        def kill(line: str) -> None:
            if words in line:
                raise KeyboardInterrupt

        return kill

    with pytest.raises(KeyboardInterrupt):
        pick.polish(settings, training, kill_at("0.01 minutes at"))
    file = pick.directory / "p" / "tokens.json"
    measured = json.loads(file.read_text())
    assert measured["tokens"] == pytest.approx(0.6 * measured["tokens_per_s"])
    file.write_text(json.dumps({"tokens_per_s": 1.0, "tokens": 20 * STEP}))  # no machine would measure that again
    with pytest.raises(KeyboardInterrupt):
        pick.polish(settings, training, kill_at(f"{10 * STEP}/{20 * STEP}"))
    again = pick.polish(settings, training)
    assert "0.01 minutes at 1 tokens a second" in pick.said
    lines = [line.split(":")[0] for line in pick.said]
    assert [line for line in lines if "/" in line] == [f"{count * STEP}/{20 * STEP} tokens" for count in (15, 20)]
    whole = pick.polish(settings, replace(training, tokens=20 * STEP), place="whole")
    expected = whole.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.model.state_dict().items())


@pytest.mark.parametrize("how", [{"tuning": SimpleNamespace(stage_tokens=(96,))}, {"healer": object()}])
def test_what_the_run_has_taught_a_pick_is_not_refit(pick: Pick, how: dict[str, Any]) -> None:
    vars(pick.session).update(how)
    done = pick.polish(Polish(windows=30), replace(TRAINING, tokens=20 * STEP))
    assert not any("corrective refit" in line for line in [*pick.said, *done.facts])
    assert "training" in done.facts


def test_what_has_learned_the_residual_streams_is_refit_to_them(pick: Pick, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluators.training.polish.objective_of", lambda spec: replace(WORDS, streams=1.0))
    pick.session.healer = object()
    done = pick.polish(Polish(windows=30), replace(TRAINING, tokens=0))
    assert done.facts["corrective refit"] == f"{30 * LENGTH} tokens"


def test_no_two_polishes_are_mixed(pick: Pick) -> None:
    pick.polish(Polish(windows=0), replace(TRAINING, tokens=0))
    assert [line.split(":")[0] for line in pick.said] == ["before"]
    with pytest.raises(UserError, match=r"begun with windows 0, now 30; learning_rate 0\.003, now 0\.0001"):
        pick.polish(Polish(windows=30), replace(TRAINING, tokens=0, learning_rate=1e-4))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"minutes": -1}, r"polish\.minutes: expected at least 0, got -1"),
        ({"windows": 1}, r"polish\.windows: expected 0 or at least 2, got 1"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(Polish(), **changes)  # type: ignore[arg-type]
