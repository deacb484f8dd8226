"""The scheduler: what is said alone is said among others, and nobody's end, error or patience is another's."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers_run import CHARACTERS
from helpers_serving import GREEDY, TIE, Gated, Heard, Points, ask, greedy_alone, make_points, running
from helpers_waiting import until

from serving.limits import Limits
from serving.requests import BusyError, Choice, Likely, Request, Sampling, Served, Slo
from serving.warming import STEPS, TOKENS, Warming
from space.errors import UserError

NEW = 24


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Points:
    return make_points(tmp_path_factory.mktemp("points"))


def prompts(count: int) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(5)
    return [
        tuple(torch.randint(len(CHARACTERS) - 1, (3 + 5 * index,), generator=generator).tolist())
        for index in range(count)
    ]


def test_a_text_among_others_is_the_text_alone_but_for_ties(points: Points) -> None:
    requests = [Request(prompt, NEW, replace(GREEDY, top=2)) for prompt in prompts(6)]
    with running(points, Limits(active=4, prefill_tokens=7), ends=()) as scheduler:
        together = {point: [ask(scheduler, point, request) for request in requests] for point in points.models}
        for point, heards in together.items():
            for request, heard in zip(requests, heards, strict=True):
                many, one = heard.wait().likely, ask(scheduler, point, request).wait().likely
                tokens, rows = greedy_alone(points.models[point], request.prompt, NEW)
                assert len(many) == len(one) == NEW
                for each in (many, one):
                    same_but_for_ties(each, tokens, rows)
                text = points.text(request.prompt, tokens)
                assert heard.text == text or [each.token for each in many] != tokens
                assert heard.end is not None
                assert (heard.end.outcome, heard.end.new_tokens) == ("length", NEW)


def same_but_for_ties(likely: list[Likely], tokens: list[int], rows: list[torch.Tensor]) -> None:
    for each, token, row in zip(likely, tokens, rows, strict=True):
        logprobs = row.log_softmax(-1)
        assert each.logprob == pytest.approx(float(logprobs[each.token]), abs=1e-4)
        if each.token != token:
            assert float(logprobs[token] - logprobs[each.token]) < TIE
            return


def test_a_seed_says_the_same_alone_and_among_others(points: Points) -> None:
    first = Request(prompts(2)[1], NEW, Sampling(seed=11))
    with running(points) as scheduler:
        alone = ask(scheduler, "cut", first).wait().text
        others = [ask(scheduler, "cut", replace(first, sampling=Sampling(seed=seed))) for seed in range(5)]
        assert ask(scheduler, "cut", first).wait().text == alone
        assert len({other.wait().text for other in others} | {alone}) > 3


def test_the_end_token_and_stop_sequences_end_a_text(points: Points) -> None:
    model, prompt = points.models["dense"], prompts(1)[0]
    tokens, _ = greedy_alone(model, prompt, NEW)
    text = points.text(prompt, tokens)
    end = tokens.index(tokens[-1])
    with running(points, ends=[tokens[end]]) as scheduler:
        heard = ask(scheduler, "dense", Request(prompt, NEW, GREEDY)).wait()
    assert (heard.text, heard.end and heard.end.outcome) == (points.text(prompt, tokens[:end]), "stop")
    stop = text[4:7]
    with running(points, ends=()) as scheduler:
        heard = ask(scheduler, "dense", Request(prompt, NEW, GREEDY, stop=("never", stop))).wait()
    assert (heard.text, heard.end and heard.end.outcome) == (text.partition(stop)[0], "stop")


def test_whoever_is_given_up_leaves_and_others_go_on(points: Points) -> None:
    model = Gated(points.models["cut"])
    records: list[Served] = []
    with running(points, Limits(active=2), {"cut": model}, records.append, ends=()) as scheduler:
        request = Request(prompts(1)[0], NEW, GREEDY)
        heards = [Heard() for _ in range(3)]
        jobs = scheduler.submit("cut", [(request, heard) for heard in heards])
        model.gate.release(2)  # two prompts, or one and a step
        assert heards[0].begun.wait(60)
        jobs[0].cancel()
        jobs[2].cancel()  # which waits
        model.open()
        assert [heard.wait().end.outcome for heard in heards if heard.end or heard.wait()] == [  # type: ignore[union-attr]
            "cancelled",
            "length",
            "cancelled",
        ]
        until(lambda: not scheduler.load().writing)
    assert {record.outcome for record in records} == {"cancelled", "length"}
    assert heards[1].text == points.text(request.prompt, greedy_alone(points.models["cut"], request.prompt, NEW)[0])


def test_a_full_queue_says_when_to_come_again(points: Points) -> None:
    model = Gated(points.models["cut"])
    with running(points, Limits(active=1, queue=2), {"cut": model}) as scheduler:
        request = Request(prompts(1)[0], 2, GREEDY)
        first = ask(scheduler, "cut", request)
        until(lambda: len(scheduler.load().waiting) == 1 and scheduler.load().waiting[0].unread > 0)
        until(lambda: not scheduler._waiting)  # it is being read
        waiting = [ask(scheduler, "cut", request) for _ in range(2)]
        with pytest.raises(BusyError) as busy:
            ask(scheduler, "cut", request)
        assert busy.value.retry_s >= 1
        with pytest.raises(BusyError):  # all or none
            scheduler.submit("cut", [(request, Heard())])
        model.open()
        assert all(heard.wait().end for heard in (first, *waiting))


def test_late_requests_end_wherever_they_are(points: Points) -> None:
    model = Gated(points.models["cut"])
    with running(points, Limits(active=1, timeout_s=0.2), {"cut": model}) as scheduler:
        heards = [ask(scheduler, "cut", Request(prompts(1)[0], NEW, GREEDY, slo=Slo(1.0))) for _ in range(2)]
        time.sleep(0.3)
        model.open()
        for heard in heards:
            end = heard.wait().end
            assert end is not None
            assert (end.outcome, "0.2 seconds" in end.error) == ("timeout", True)


def test_an_error_of_a_point_is_told_to_its_requests_alone(points: Points) -> None:
    model = Gated(points.models["cut"])
    records: list[Served] = []
    with running(points, None, {"cut": model, "dense": points.models["dense"]}, records.append) as scheduler:
        request = Request(prompts(1)[0], NEW, GREEDY)
        model.gate.release()
        failing = ask(scheduler, "cut", request)
        assert failing.begun.wait(60)
        model.failing = True
        model.open()
        end = failing.wait().end
        assert end is not None
        assert (end.outcome, end.error) == ("error", "RuntimeError: out of memory")
        assert ask(scheduler, "cut", request).wait().end.outcome == "error"  # type: ignore[union-attr]
        assert ask(scheduler, "dense", request).wait().end.error == ""  # type: ignore[union-attr]
        model.failing = False
        assert ask(scheduler, "cut", request).wait().end.error == ""  # type: ignore[union-attr]
    assert [record.outcome == "error" for record in records] == [True, True, False, False]


def test_the_end_of_the_server_is_the_end_of_all(points: Points) -> None:
    with running(points, Limits(active=1), ends=()) as scheduler:
        heards = [ask(scheduler, "cut", Request(prompts(1)[0], 10_000, GREEDY)) for _ in range(2)]
        assert heards[0].begun.wait(60)
    assert [heard.wait().end.outcome for heard in heards if heard.wait()] == ["cancelled"] * 2  # type: ignore[union-attr]
    assert not scheduler.alive
    with pytest.raises(BusyError):
        ask(scheduler, "cut", Request((1,), 1))


def test_what_is_known_of_a_request(points: Points) -> None:
    records: list[Served] = []
    with running(points, None, None, records.append, ends=()) as scheduler:
        for slo in (None, Slo(first_token_ms=1e-6), Slo(first_token_ms=1e6, token_ms=1e6)):
            ask(scheduler, "cut", Request((1, 2, 3), 5, GREEDY, slo=slo)).wait()
    assert [record.slo_kept for record in records] == [None, False, True]
    for record in records:
        assert (record.point, record.prompt_tokens, record.new_tokens) == ("cut", 3, 5)
        assert record.first_token_s is not None
        assert record.token_s is not None
        assert (
            0 <= record.waited_s <= record.first_token_s <= record.first_token_s + 4 * record.token_s <= record.seconds
        )
    assert scheduler.speeds.known("cut")
    assert not scheduler.speeds.known("dense")


def test_whoever_learns_is_told_whole_answers(points: Points) -> None:
    told: list[tuple[Sequence[int], Sequence[int]]] = []
    choice = Choice("cut", 0.5, lambda prompt, answer: told.append((prompt, [*answer])))
    request, records = Request(prompts(1)[0], 5, GREEDY, choice=choice), list[Served]()
    with running(points, None, None, records.append, ends=()) as scheduler:
        ask(scheduler, "cut", request).wait()
        heard = Heard()
        (job,) = scheduler.submit("cut", [(replace(request, new_tokens=10_000), heard)])
        assert heard.begun.wait(60)
        job.cancel()
        heard.wait()
        until(lambda: len(records) == 2)
    assert told == [(request.prompt, greedy_alone(points.models["cut"], request.prompt, 5)[0])]
    assert [record.predicted_loss for record in records] == [0.5, 0.5]


def test_calls_are_made_between_steps_and_their_errors_are_the_callers(points: Points) -> None:
    model = Gated(points.models["cut"])
    with running(points, None, {"cut": model}, ends=()) as scheduler:
        heard = ask(scheduler, "cut", Request(prompts(1)[0], 50, GREEDY))
        until(lambda: not scheduler._waiting)
        order: list[str] = []
        calls = [scheduler.call(partial(order.append, "first")), scheduler.call(partial(order.append, "second"))]
        calls.append(scheduler.call(partial(order.append, "soon"), soon=True))
        wrong = scheduler.call(lambda: 1 // 0)
        model.gate.release(8)
        for call in calls:
            assert call.result(60) is None
        with pytest.raises(ZeroDivisionError):
            wrong.result(60)
        assert order == ["soon", "first", "second"]
        assert heard.end is None
        model.open()
        heard.wait()
    assert scheduler.call(lambda: None).cancelled()


def test_points_are_measured_while_others_are_served_and_never_again(points: Points, tmp_path: Path) -> None:
    def stored() -> bool:
        texts = [file.read_text() for file in tmp_path.glob("speeds-*.json")]
        return any({*json.loads(text)["step"]} == {"dense", "cut"} for text in texts)

    with running(points, Limits(active=3), ends=()) as scheduler:
        assert Warming(points.models, scheduler, tmp_path).begin() == 2
        ask(scheduler, "dense", Request(prompts(1)[0], 30, GREEDY)).wait()
        until(stored)  # the file of the last one
    (file,) = tmp_path.iterdir()
    content = json.loads(file.read_text())
    assert (content["about"]["dtype"], content["about"]["threads"]) == ("float32", torch.get_num_threads())
    assert [size for size, _, _ in content["read"]["cut"]] == [*TOKENS]
    assert [(size, count) for size, _, count in content["step"]["cut"]] == [(1, STEPS), (3, STEPS)]
    with running(points) as again:
        assert Warming(points.models, again, tmp_path).begin() == 0
        assert json.loads(json.dumps(again.speeds.to_json())) == {part: content[part] for part in ("read", "step")}
        file.write_text("{}")
        with pytest.raises(UserError, match=r"to be a server's speeds, got: KeyError.*Delete it"):
            Warming(points.models, again, tmp_path)


def test_a_measurement_that_fails_is_told(points: Points, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Gated(points.models["cut"])
    model.failing = True
    model.open()
    with running(points, None, {"cut": model}) as scheduler:
        Warming({"cut": model}, scheduler, tmp_path).begin()
        until(lambda: "not all measured: RuntimeError: out of memory" in caplog.text)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"active": 0}, "limits.active"), ({"context": 1}, "limits.context"), ({"timeout_s": 0.0}, "limits.timeout_s")],
)
def test_limits_have_to_be_some(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Limits(**wrong)  # type: ignore[arg-type]


def test_what_is_counted_is_counted_before_its_client_is_told(points: Points) -> None:
    heard, counted = Heard(), list[tuple[str, bool, int]]()

    def count(served: Served) -> None:
        counted.append((served.outcome, heard.end is None, len(scheduler.load().writing)))

    with running(points, on_served=count, ends=()) as scheduler:
        scheduler.submit("cut", [(Request((1,), 3, GREEDY), heard)])
        heard.wait()
        assert counted == [("length", True, 0)]


def test_where_the_scheduler_itself_is_wrong_nobody_waits_for_ever(
    points: Points, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashes: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", crashes.append)

    def wrong(served: Served) -> None:
        raise LookupError("a bug")

    with running(points, on_served=wrong) as scheduler:
        heards = [ask(scheduler, "cut", Request((1,), count, GREEDY)) for count in (2, 1000, 1000)]
        assert all(heard.wait().end for heard in heards)
        until(lambda: not scheduler.alive)
        with pytest.raises(BusyError):
            ask(scheduler, "cut", Request((1,), 1))
    assert [crash.exc_type for crash in crashes] == [LookupError]
