"""Distillation: the loss is what torch computes, training lowers it, and a student goes on exactly where it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import fitting, random_tokens
from torch.nn import functional as F

from evaluators.output_head import GeneralHead, OutputHead
from evaluators.training.distillation import Student, cross_entropy
from evaluators.training.recipes import TRAINABLE, Distillation
from evaluators.training.teacher import Teacher, spread_layers
from space.candidate import Candidate
from space.errors import UserError
from space.models.architectures import ARCHITECTURES
from space.models.stack import layers_of, stack_of
from space.supernet.supernet import Supernet

MakeSupernet = Callable[..., Supernet]
CUT = Candidate.from_rows([[6, 3, 16], [4, 2, 48], [0, 0, 24], [3, 3, 16]])
TOKENS = random_tokens(6, 12, seed=5)


def teacher_of(supernet: Supernet, directory: Path, settings: Distillation, **changes: Any) -> Teacher:
    layers = spread_layers(2, supernet.spec.layers) if settings.streams else ()
    given: dict[str, Any] = {"batch_size": settings.batch_size, "temperature": settings.temperature, "layers": layers}
    return Teacher(supernet.model, supernet.spec.digest, TOKENS, directory, **(given | changes))


def student_of(supernet: Supernet, settings: Distillation) -> Student:
    cut = fitting(supernet.spec.family, CUT)
    return Student(supernet.view(cut, own=True), settings, 12 * settings.batch_size)


@pytest.mark.parametrize(("slice_bytes", "scale"), [(1, 1.0), (97 * 12 * 2, 0.4), (1 << 20, 1.0)])
def test_the_loss_and_its_gradient_are_those_of_the_whole_vocabulary(slice_bytes: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(12, 20, generator=generator, requires_grad=True)
    linear = torch.nn.Linear(20, 97, bias=False).requires_grad_(False)
    labels = torch.randn(12, 97, generator=generator).softmax(-1)
    expected = -(labels * (F.linear(hidden, linear.weight) * scale).log_softmax(-1)).sum(-1).mean()
    (gradient,) = torch.autograd.grad(expected, hidden)
    head = OutputHead(linear, 12, scale=scale, slice_bytes=slice_bytes)
    found = cross_entropy(hidden, head, labels @ linear.weight * scale)
    (found_gradient,) = torch.autograd.grad(found, hidden)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found_gradient, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("slice_bytes", "temperature"), [(1, 1.0), (97 * 12 * 2, 2.0), (1 << 20, 0.5)])
@pytest.mark.parametrize("words", [True, False])
@pytest.mark.parametrize(("cap", "bias"), [(0.5, False), (None, True), (0.5, True)])
def test_so_are_those_of_soft_capped_logits_and_of_a_bias(
    cap: float | None, bias: bool, words: bool, slice_bytes: int, temperature: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(12, 20, generator=generator, requires_grad=True)
    teacher = torch.randn(12, 20, generator=generator)
    linear = torch.nn.Linear(20, 97, bias=bias).requires_grad_(False)

    def logits(states: torch.Tensor) -> torch.Tensor:
        products = 2.5 * linear(states)
        return (products if cap is None else cap * torch.tanh(products / cap)) / temperature

    ids = torch.randint(97, (12,), generator=generator)
    labels = F.one_hot(ids, 97) if words else logits(teacher).softmax(-1)
    expected = -(labels * logits(hidden).log_softmax(-1)).sum(-1).mean()
    (gradient,) = torch.autograd.grad(expected, hidden)
    head = GeneralHead(linear, 12, cap, scale=2.5, temperature=temperature, slice_bytes=slice_bytes)
    found = cross_entropy(hidden, head, ids if words else head.expected(teacher)[1])
    (found_gradient,) = torch.autograd.grad(found, hidden)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found_gradient, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"temperature": 2.0}, {"lm": 0.3}, {"streams": 0.5, "temperature": 0.5}])
def test_a_step_reports_the_loss_of_its_definition(
    settings: dict[str, float], make_supernet: MakeSupernet, tmp_path: Path
) -> None:
    supernet = make_supernet("llama")
    distillation = Distillation(tokens=(24,), batch_size=2, **settings)  # type: ignore[arg-type]
    teacher = teacher_of(supernet, tmp_path / "teacher", distillation)
    with torch.inference_mode():
        dense = supernet.model(TOKENS[2:4], use_cache=False, output_hidden_states=True)
        model = supernet.view(CUT)
        cut = model(TOKENS[2:4], use_cache=False, output_hidden_states=True)
    warm, lm = distillation.temperature, distillation.lm
    p, q = ((out.logits / warm).log_softmax(-1) for out in (dense, cut))
    expected = (1 - lm) * warm**2 * (p.exp() * (p - q)).sum(-1).mean()
    expected += lm * F.cross_entropy(cut.logits[:, :-1].flatten(0, 1), TOKENS[2:4, 1:].flatten())
    if distillation.streams:
        layer = spread_layers(2, 4)[0]
        assert (layer, spread_layers(2, 4)[1]) == (1, 3)
        off = []
        # behind the last layer, transformers only gives the normed state: look there with the model's own hook
        for index in spread_layers(2, 4):
            pair = []
            for candidate in (Candidate.dense(supernet.spec), CUT):
                model = supernet.view(candidate)
                seen: list[torch.Tensor] = []
                handle = model.model.layers[index].register_forward_hook(lambda m, i, o, seen=seen: seen.append(o))
                with torch.inference_mode():
                    model(TOKENS[2:4], use_cache=False)
                handle.remove()
                pair.append(seen[0])
            off.append(((pair[1] - pair[0]).square().sum(-1) / pair[0].square().sum(-1)).mean())
        expected += distillation.streams * sum(off) / 2
    assert student_of(supernet, distillation).learn(teacher.lesson(1)) == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("trainable", TRAINABLE)
def test_training_lowers_the_loss_and_touches_what_it_says(
    trainable: str, unlike_family: str, make_supernet: MakeSupernet, tmp_path: Path
) -> None:
    supernet = make_supernet(unlike_family)
    rate = 5e-4 if trainable == "all" else 3e-3
    settings = Distillation(tokens=(72,), trainable=trainable, rank=2, learning_rate=rate)
    teacher = teacher_of(supernet, tmp_path / "teacher", settings)
    student = student_of(supernet, settings)
    cut = supernet.view(fitting(unlike_family, CUT), own=True)
    before = {name: tensor.clone() for name, tensor in cut.state_dict().items()}
    losses = [student.learn(teacher.lesson(step)) for step in range(36)]
    assert sum(losses[-6:]) < 0.97 * sum(losses[:6])
    merged = student.merged()
    assert {name: tensor.shape for name, tensor in merged.state_dict().items()} == {
        name: tensor.shape for name, tensor in before.items()
    }
    family = ARCHITECTURES[unlike_family]
    first, source = (layers_of(model)[0].get_submodule(family.attention.module) for model in (merged, cut))
    assert [type(module) for module in first.modules()] == [type(module) for module in source.modules()]
    changed = {name for name, tensor in merged.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not any(name.endswith(f".{family.stack.embedding}.weight") for name in changed)
    assert "lm_head.weight" not in changed
    assert any(name.endswith(f".{family.stack.norm}.weight") for name in changed)
    blocks = family.blocks.values()
    outputs = {f"{block.module}.{block.output}.weight" for block in blocks}
    projections = {f"{block.module}.{name}.weight" for block in blocks for name in block.projections}
    some = {"norms": set[str](), "outputs": outputs}.get(trainable, projections)
    kept = {name for name in before if name.endswith((*projections,))}
    assert changed & kept == {name for name in kept if name.endswith((*some,))}
    with torch.inference_mode():  # what was trained is what is merged
        lesson = teacher.lesson(0)
        again = stack_of(merged)(lesson.tokens, use_cache=False).last_hidden_state.flatten(0, 1)
        value = cross_entropy(again, OutputHead.of(merged, 12), lesson.known) - lesson.cross.mean()
    assert value.item() < losses[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_student_goes_on_exactly_where_it_was(
    dtype: torch.dtype, make_supernet: MakeSupernet, tmp_path: Path
) -> None:
    supernet = make_supernet("qwen3", dtype=dtype)
    settings = Distillation(tokens=(72,), rank=2)
    teacher = teacher_of(supernet, tmp_path / "teacher", settings)
    whole, first = student_of(supernet, settings), student_of(supernet, settings)
    losses = [whole.learn(teacher.lesson(step)) for step in range(10)]
    for step in range(4):
        first.learn(teacher.lesson(step))
    torch.save(first.state(), tmp_path / "state.pt")
    second = student_of(supernet, settings)
    second.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [second.learn(teacher.lesson(step)) for step in range(4, 10)] == losses[4:]
    assert all(torch.equal(one, other) for one, other in zip(
        whole.merged().state_dict().values(), second.merged().state_dict().values(), strict=True
    ))  # fmt: skip


def test_divergence_is_an_error_and_not_a_score(make_supernet: MakeSupernet, tmp_path: Path) -> None:
    supernet = make_supernet("llama")
    settings = Distillation(tokens=(72,), trainable="all", learning_rate=50.0, warmup=0)
    teacher = teacher_of(supernet, tmp_path / "teacher", settings)
    student = student_of(supernet, settings)

    def learn() -> None:
        for step in range(40):
            student.learn(teacher.lesson(step))

    with pytest.raises(ArithmeticError, match=r"Lower distillation\.learning_rate"):
        learn()


def test_the_teacher_is_asked_once_and_again_for_other_text(make_supernet: MakeSupernet, tmp_path: Path) -> None:
    supernet, settings = make_supernet("llama"), Distillation(tokens=(24,), batch_size=4)
    calls: list[int] = []
    handle = supernet.model.model.register_forward_hook(lambda *_: calls.append(1))
    first = teacher_of(supernet, tmp_path / "teacher", settings)
    assert len(calls) == 2  # 6 windows, 4 at once
    again = teacher_of(supernet, tmp_path / "teacher", settings)
    assert len(calls) == 2
    for step in (0, 1, 2):
        one, other = first.lesson(step), again.lesson(step)
        assert torch.equal(one.known, other.known)
        assert torch.equal(one.tokens, TOKENS[:4] if step != 1 else TOKENS[4:])
        assert one.known.shape == (one.tokens.numel(), supernet.spec.hidden)
    Teacher(supernet.model, supernet.spec.digest, TOKENS[:5], tmp_path / "teacher", batch_size=4)
    assert len(calls) == 4
    handle.remove()


def test_the_stored_lessons_are_exact(make_supernet: MakeSupernet, tmp_path: Path) -> None:
    supernet = make_supernet("gemma3_text")
    lesson = teacher_of(supernet, tmp_path / "teacher", Distillation(tokens=(24,), batch_size=6)).lesson(0)
    with torch.inference_mode():
        logits = supernet.model(TOKENS, use_cache=False).logits.double().flatten(0, 1)
    p = logits.softmax(-1)
    torch.testing.assert_close(lesson.known.double(), p @ supernet.model.lm_head.weight.double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lesson.cross.double(), -(p * p.log()).sum(-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokens": ()}, "tokens"),
        ({"tokens": (8, 4)}, "tokens"),
        ({"trainable": "everything"}, "trainable"),
        ({"rank": 0}, "rank"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"lm": 1.5}, "lm"),
    ],
)
def test_bad_settings_say_what_was_expected(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Distillation(**({"tokens": (8,)} | changes))
