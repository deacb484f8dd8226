"""Healing: subnets learn together through shared weights, and what they learn is a supernet again."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import fitting, random_tokens, tiny_model

from evaluators import throughput
from evaluators.divergence import Divergence
from evaluators.training.healed import HealedEvaluator
from evaluators.training.healing import Healer, gentle_until
from evaluators.training.rates import LEAST, USUAL, share_of
from evaluators.training.recipes import SHARED_TRAINABLE, Healing
from evaluators.training.shared_training import SharedTraining, trainable_row
from space.candidate import Candidate
from space.errors import UserError
from space.models.stack import stack_of
from space.supernet.corrective_refit import correct
from space.supernet.shared import SharedWeights
from space.supernet.sizes import maps_bytes
from space.supernet.supernet import Supernet

MakeSupernet = Callable[..., Supernet]
LENGTH = 12
CUT = Candidate.from_rows([[6, 3, 16], [4, 2, 48], [0, 0, 24], [3, 3, 16]])
TYPED = Candidate.from_rows([[6, 3, 48, 1, 5]] * 4)  # which is trained as it is before it is rounded
GONE = Candidate.from_rows([[2, 1, 48], [0, 0, 0], [6, 3, 0], [6, 3, 40]])
MERGED = Candidate.from_rows([[6, 1, 48], [6, 3, 24], [6, 3, 48], [6, 1, 24]])
NEVER_TRAINED = Candidate.from_rows([[4, 2, 24], [6, 3, 16], [6, 3, 24], [6, 3, 16]])
TOKENS = random_tokens(4, LENGTH, seed=6)
SETTINGS = Healing(tokens=48 * LENGTH, learning_rate=1e-3, save_steps=16)


def unmarked() -> tuple[bool, bool]:
    return False, False


def designs_of(family: str) -> list[Candidate]:
    merges = tiny_model(family)[1].merged_kv_heads
    return [*(fitting(family, design) for design in (CUT, GONE)), *([MERGED] if merges else [])]


def healer_of(
    supernet: Supernet,
    directory: Path,
    settings: Healing = SETTINGS,
    show: Callable[[int, int], None] = lambda d, o: None,
) -> Healer:
    def windows(count: int) -> torch.Tensor:
        return random_tokens(40, LENGTH, seed=5)[:count]

    return Healer(lambda: supernet, settings, windows, unmarked, directory, lambda: nullcontext(show))


def kl(supernet: Supernet, candidate: Candidate) -> float:
    return Divergence(supernet, TOKENS)(candidate)[0]


def all_trained(name: str) -> bool:
    return True


def test_changed_weights_are_a_supernet_with_the_same_dense_model(
    unlike_family: str, make_supernet: MakeSupernet
) -> None:
    supernet, designs = make_supernet(unlike_family), designs_of(unlike_family)
    dense = Candidate.dense(supernet.spec)
    shared = SharedWeights(supernet, designs, all_trained)
    before = {design: supernet.view(design)(TOKENS).logits for design in (*designs, dense)}
    with torch.no_grad():
        for number, parameter in enumerate(shared.parameters.values()):
            parameter.mul_(1 + 0.01 * (number % 7))
    healed = supernet.with_weights({name: p.detach().clone() for name, p in shared.parameters.items()})
    for design in designs:
        hidden = stack_of(healed.view(design))(TOKENS, use_cache=False).last_hidden_state
        torch.testing.assert_close(hidden, shared.hidden(design, TOKENS), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(healed.view(design)(TOKENS).logits, before[design], atol=1e-2)
        assert torch.equal(supernet.view(design)(TOKENS).logits, before[design])
    assert torch.equal(healed.view(dense)(TOKENS).logits, before[dense])
    asked = Divergence(healed, TOKENS, cache_bytes=1 << 20)
    assert asked(dense)[0] == pytest.approx(0.0, abs=1e-6)
    for design in designs:  # shares first layers with the dense model, and no residual stream
        assert asked(design) == Divergence(healed, TOKENS)(design)


def test_a_step_has_more_windows_where_the_device_waits_and_text_makes_enough_steps(
    make_supernet: MakeSupernet, monkeypatch: pytest.MonkeyPatch
) -> None:
    session: Any = SimpleNamespace(
        supernet=make_supernet("llama"),
        settings=SimpleNamespace(text=SimpleNamespace(length=LENGTH)),
        text=SimpleNamespace(
            room=lambda part, length: 40, blocks=lambda part, count, length: random_tokens(count, length, seed=5)
        ),
        loaded=SimpleNamespace(device=torch.device("cpu")),
    )

    def measured(**settings: Any) -> list[int]:
        return [*throughput._healing(session, Healing(**settings), [CUT, GONE, TYPED])]

    assert measured() == [1]
    monkeypatch.setattr(throughput, "_waits", lambda session: True)
    monkeypatch.setattr(throughput, "STEPS", 10)
    monkeypatch.setattr(throughput, "STEP_GAIN", 0.0)
    assert measured() == [1, 2, 4, 8, 16]  # of 40 windows, each seen four times
    assert measured(tokens=48 * LENGTH) == [1, 2, 4]
    assert measured(tokens=5 * LENGTH) == [1]
    assert measured(batch_size=3) == [3]
    assert Healing(tokens=48 * LENGTH, batch_size=4).steps(LENGTH) == 12


@pytest.mark.parametrize("trainable", SHARED_TRAINABLE)
def test_all_designs_learn_the_one_that_was_never_trained_too(
    trainable: str, make_supernet: MakeSupernet, tmp_path: Path
) -> None:
    supernet = make_supernet("llama")
    healer = healer_of(supernet, tmp_path / "healed", Healing(120 * LENGTH, trainable, learning_rate=5e-3))
    healed = healer.heal([CUT, MERGED, Candidate.dense(supernet.spec)])
    assert healer.designs == [CUT, MERGED]
    for design in (CUT, MERGED, NEVER_TRAINED):
        assert kl(healed, design) < 0.98 * kl(supernet, design), design


def test_designs_that_lack_little_take_half_of_what_was_learned(make_supernet: MakeSupernet) -> None:
    supernet = make_supernet("llama")
    little = Candidate.from_rows([[6, 3, 48], [6, 3, 48], [6, 3, 32], [6, 3, 48]])
    shared = SharedWeights(supernet, [CUT], all_trained)
    start = {name: p.detach().clone() for name, p in shared.parameters.items()}
    learned = {name: 1.02 * weight for name, weight in start.items()}
    healed = supernet.with_weights(learned, gentle=0.2)
    dense = Candidate.dense(supernet.spec)
    rounded = Candidate(tuple(replace(shape, mlp_type=1) for shape in dense.layers))
    assert [healed.strength(c) for c in (dense, rounded, little, CUT)] == [0.0, 0.0, 0.5, 1.0]
    for design, scale in ((little, 1.01), (CUT, 1.02)):
        with torch.no_grad():
            for name, parameter in shared.parameters.items():
                parameter.copy_(scale * start[name])
        hidden = stack_of(healed.view(design))(TOKENS, use_cache=False).last_hidden_state
        torch.testing.assert_close(hidden, shared.hidden(design, TOKENS), rtol=1e-4, atol=1e-4)
    # what moves every design away from the dense model is best taken by halves, and what moves none by any
    assert gentle_until(supernet, {name: 1.3 * weight for name, weight in start.items()}, [little, CUT], TOKENS) > 0.2
    assert gentle_until(supernet, start, [little, CUT], TOKENS) == 0.0


def test_a_corrective_refit_follows_the_healed_weights(make_supernet: MakeSupernet, tmp_path: Path) -> None:
    supernet = make_supernet("llama")
    healed = healer_of(supernet, tmp_path / "healed").heal([CUT, NEVER_TRAINED])
    late = Candidate.from_rows([[6, 3, 48], [6, 3, 48], [6, 3, 48], [3, 3, 16]])  # cut behind whole layers, healed too
    for design in (CUT, late):
        (correction,) = correct(healed, [design], random_tokens(32, LENGTH, seed=5))
        corrected = healed.view(design, correction)
        assert Divergence(healed, TOKENS)(design, corrected)[0] < kl(healed, design)


def test_every_design_meets_every_source(
    make_supernet: MakeSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supernet, sources = make_supernet("llama"), 4
    designs, met = [CUT, GONE, MERGED, NEVER_TRAINED], Counter[tuple[Candidate, int]]()
    hidden = SharedWeights.hidden

    def noting(self: SharedWeights, design: Candidate, tokens: torch.Tensor, streams: Any) -> torch.Tensor:
        met[design, int(tokens[0, 0])] += 1
        assert streams is None  # models that write learn what they did
        return hidden(self, design, tokens)

    def windows(count: int) -> torch.Tensor:  # sources take turns
        return (torch.arange(min(count, 66)) % sources)[:, None].expand(-1, LENGTH)

    monkeypatch.setattr(SharedWeights, "hidden", noting)
    settings = Healing(tokens=64 * LENGTH, trainable="norms", learning_rate=3e-4)
    stage = partial(nullcontext, lambda done, of: None)
    Healer(lambda: supernet, settings, windows, unmarked, tmp_path, stage).heal(designs)
    assert {*met} == {(design, source) for design in designs for source in range(sources)}


class KilledError(Exception):
    """Stands for a killed process."""


def test_a_killed_healing_goes_on_to_the_same_bits(make_supernet: MakeSupernet, tmp_path: Path) -> None:
    supernet = make_supernet("llama")
    whole = healer_of(supernet, tmp_path / "whole").heal([CUT, GONE])
    made: list[int] = []

    def dying(at: int) -> Callable[[int, int], None]:
        def show(done: int, of: int) -> None:
            assert of == 48
            made.append(done)
            if done == at:
                raise KilledError

        return show

    for at in (7, 20, 40):
        with pytest.raises(KilledError):
            healer_of(supernet, tmp_path / "killed", show=dying(at)).heal([CUT, GONE])
        with pytest.raises(UserError, match="goes on"):
            healer_of(supernet, tmp_path / "killed").supernet()
    again = healer_of(supernet, tmp_path / "killed", show=dying(0))
    killed = again.heal([GONE])  # the designs are those that it began with
    assert made == [*range(1, 8), *range(1, 21), *range(17, 41), *range(33, 49)]
    assert again.designs == [CUT, GONE]
    assert not (tmp_path / "killed" / "state.pt").exists()
    for design in (CUT, NEVER_TRAINED):
        assert torch.equal(whole.view(design)(TOKENS).logits, killed.view(design)(TOKENS).logits)
    assert healer_of(supernet, tmp_path / "killed", show=dying(0)).heal([CUT]) is not None  # from disk, without a step


def test_tokens_of_the_healing_are_counted_with_its_designs(make_supernet: MakeSupernet, tmp_path: Path) -> None:
    supernet = make_supernet("llama")
    asked: list[Supernet] = []

    def measures(net: Supernet) -> Sequence[Any]:
        asked.append(net)
        return [Divergence(net, TOKENS).measure()]

    def evaluator() -> HealedEvaluator:
        metrics = Divergence(supernet, TOKENS).measure().metrics
        return HealedEvaluator(healer_of(supernet, tmp_path / "healed"), metrics, measures)

    first = evaluator()
    answers = [*first.evaluate([CUT, GONE]), *first.evaluate([NEVER_TRAINED])]
    assert [answer.tokens for answer in answers] == [TOKENS.numel() + 24 * LENGTH] * 2 + [TOKENS.numel()]
    assert answers[0].values["kl"] == kl(asked[0], CUT) != kl(supernet, CUT)
    assert [answer.fidelity for answer in answers] == ["healed"] * 3
    (again,) = evaluator().evaluate([GONE])  # what a resumed run asks
    assert (again.values, again.tokens) == (answers[1].values, answers[1].tokens)


def test_a_step_is_as_large_a_part_of_every_tensor(make_supernet: MakeSupernet) -> None:
    supernet = make_supernet("llama")
    with torch.no_grad():
        supernet.model.model.layers[0].mlp.up_proj.weight.mul_(0.01)  # as norm gains that are folded in may make it
    training = SharedTraining(supernet, [CUT], SETTINGS)
    before = {name: weight.clone() for name, weight in training.weights().items()}
    training.learn(TOKENS, 0.01)
    parts = {}
    for name, weight in training.weights().items():
        step = (weight - before[name]).abs().max().item()
        if step > 0:  # what this design lacks learns nothing
            parts[name] = step / before[name].square().mean().sqrt().item()
    assert {"layers.0.mlp.up_proj.weight", "layers.3.mlp.up_proj.weight", "norm.weight"} <= {*parts}
    assert [*parts.values()] == pytest.approx([0.01 / USUAL] * len(parts), rel=0.02)
    assert share_of(torch.zeros(4)) == LEAST / USUAL


def test_a_diverging_healing_says_what_to_do(make_supernet: MakeSupernet, tmp_path: Path) -> None:
    healer = healer_of(make_supernet("llama"), tmp_path / "healed", Healing(80 * LENGTH, learning_rate=1e20))
    with pytest.raises(UserError, match=r"Lower distillation\.learning_rate"):
        healer.heal([CUT])


@pytest.mark.parametrize(
    "wrong", [{"tokens": 0}, {"trainable": "some"}, {"learning_rate": 0.0}, {"warmup": 1.0}, {"save_steps": 0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"distillation.*expected"):
        Healing(**wrong)


def test_what_is_trained_by_default_is_what_fits(make_supernet: MakeSupernet) -> None:
    supernet = make_supernet("llama", dtype=torch.bfloat16)
    weights = {name: weight for name, weight in supernet.model.model.named_parameters() if "embed" not in name}
    outputs = sum(weight.numel() for name, weight in weights.items() if SHARED_TRAINABLE["outputs"](name))
    everything = sum(weight.numel() for weight in weights.values())
    whole = sum(weight.nbytes for weight in supernet.model.parameters())
    whole_and_maps = whole + maps_bytes(supernet.spec, "bfloat16")

    def row(memory: int | None) -> str:
        return trainable_row(supernet, Healing(memory_bytes=memory))

    # a weight in bfloat16, its float32 master and two moments
    most, fewer = whole_and_maps + 14 * everything, whole_and_maps + 14 * outputs
    assert [row(most), row(most - 1)] == ["all", "outputs"]
    assert [row(fewer), row(fewer - 1), row(1), row(None)] == ["outputs", "norms", "norms", "all"]
    assert trainable_row(supernet, Healing(trainable="all", memory_bytes=1)) == "all"


def test_a_healed_supernet_that_is_gone_leaves_no_blocks_behind(make_supernet: MakeSupernet) -> None:
    supernet = make_supernet("llama")
    shared = SharedWeights(supernet, [CUT], all_trained)
    learned = {name: parameter.detach() for name, parameter in shared.parameters.items()}
    supernet.view(CUT)
    held = supernet._memory.bytes
    assert held > 0
    healed = supernet.with_weights(learned)
    healed.view(CUT)
    assert supernet._memory.bytes > held
    del healed
    gc.collect()
    assert supernet._memory.bytes == held
