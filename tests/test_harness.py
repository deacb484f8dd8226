"""Task scores: those of lm-eval on the exported checkpoint, item by item, on tiny models and tasks of their own."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers_run import CHARACTERS, save_tiny
from helpers_tasks import ITEMS, TASKS, write_tasks
from transformers import AutoTokenizer

from evaluators.settings import TaskSettings
from evaluators.tasks.harness import Harness
from space.candidate import Candidate, LayerShape
from space.errors import UserError
from space.formats.checkpoint import checkpoint_parts, write_checkpoint
from space.models.embedded import quiet_transformers
from space.models.loading import LoadedModel, load_model
from space.models.modeling import MODELING_FILE, modeling_text
from space.models.pruned import checkpoint_config
from space.supernet.supernet import Supernet

UNEVEN = Candidate((LayerShape(4, 2, 40), LayerShape(0, 0, 32), LayerShape(3, 3, 0), LayerShape(6, 3, 24)))


class Place:
    """A tiny model in bfloat16, and tasks for it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        saved = save_tiny("llama", directory / "model")
        with quiet_transformers():
            self.loaded: LoadedModel = load_model(str(saved), dtype="bfloat16", device="cpu")
        tokens = torch.randint(len(CHARACTERS), (12, 24), generator=torch.Generator().manual_seed(0))
        self.supernet = Supernet.prepare(
            self.loaded.model, self.loaded.spec, tokens, directory / "supernet", dtype=self.loaded.dtype
        )
        self.tasks = write_tasks(directory / "tasks")

    def harness(self, *tasks: str, **settings: Any) -> Harness:
        return Harness(self.loaded.tokenizer, TaskSettings(tasks, include_path=str(self.tasks), **settings))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Offline, and with lm-eval's own tasks, of which there are thousands, left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        import lm_eval.tasks

        patch.setattr(lm_eval.tasks, "TaskManager", partial(own_tasks_alone, lm_eval.tasks.TaskManager))
        yield Place(tmp_path_factory.mktemp("harness"))


def own_tasks_alone(manager: Any, include_path: str | None = None, include_defaults: bool = True) -> Any:
    return manager(include_path=include_path, include_defaults=False)


@pytest.fixture(scope="module")
def checkpoint(place: Place) -> Path:
    """The uneven candidate, exported."""
    out = place.directory / "export"
    out.mkdir()
    parts, loaded = checkpoint_parts(place.supernet.view(UNEVEN), place.loaded.model.config, UNEVEN), place.loaded
    config = checkpoint_config(parts.config, UNEVEN, loaded.spec)
    write_checkpoint(out, parts.state, config, loaded.tokenizer, loaded.model.generation_config)
    (out / f"{MODELING_FILE}.py").write_text(modeling_text("llama"))
    return out


@pytest.mark.parametrize(("task", "num_fewshot", "batch_size"), [("choose", 2, 4), ("last", None, 1), ("write", 3, 4)])
def test_scores_are_those_of_lm_eval_on_the_export(
    place: Place, checkpoint: Path, task: str, num_fewshot: int | None, batch_size: int
) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    harness = place.harness(task, num_fewshot=num_fewshot, batch_size=batch_size)
    (scored,) = harness.tasks
    model = place.supernet.view(UNEVEN)
    values, facts = harness.scores(scored, model)
    with pytest.MonkeyPatch.context() as patch, quiet_transformers():
        patch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
        patch.setenv("DISABLE_MULTIPROC", "1")
        theirs = lm_eval.simple_evaluate(
            model="hf",
            model_args={"pretrained": str(checkpoint), "dtype": "bfloat16", "trust_remote_code": True},
            device="cpu",
            tasks=[task],
            num_fewshot=num_fewshot,
            batch_size=batch_size,
            bootstrap_iters=1000,
            task_manager=TaskManager(include_path=str(place.tasks)),
        )
    samples = theirs["samples"][task]
    ours = {(i.doc_id, i.idx): i.filtered_resps["none"] for i in scored.loaded["tasks"][task].instances}
    expected = {(s["doc_id"], n): answer for s in samples for n, answer in enumerate(s["filtered_resps"])}
    assert {key: list(answer) for key, answer in ours.items()} == {key: list(a) for key, a in expected.items()}
    assert len({str(answer) for answer in expected.values()}) > ITEMS / 2  # the items are not all alike
    for result, value in theirs["results"][task].items():
        metric, _, key = result.partition(",")
        if key and value != "N/A":
            assert values.pop(f"{task}_{metric}") == value
    assert values == {}
    for column, digits in facts["outcomes"].items():
        metric = column.removeprefix(f"{task}_")
        assert [int(digit) for digit in digits] == [sample[metric] for sample in samples]
    assert set(facts["outcomes"]) == {f"{task}_{m['metric']}" for m in TASKS[task]["metric_list"]} - {"last_perplexity"}
    assert scored.facts["num_fewshot"] == str(theirs["n-shot"][task])
    assert scored.facts["version"] == "1.5"


def test_a_task_is_named_by_what_its_answer_depends_on(place: Place, tmp_path: Path) -> None:
    def name(**settings: Any) -> str:
        return place.harness("choose", **settings).tasks[0].fidelity

    assert name().startswith("lm-eval ")
    assert " choose 0-shot 12 items " in name()
    assert name() == name() == name(batch_size=3)
    assert " choose 2-shot 5 items " in name(num_fewshot=2, limit=5)
    assert " 6 items " in name(limit=0.5)
    before = name()
    file = place.tasks / "choose.yaml"
    text = file.read_text()
    try:
        file.write_text(text.replace("{{choices}}", "{{choices[::-1]}}"))
        assert name() != before
    finally:
        file.write_text(text)


def test_what_is_asked_leaves_no_trace(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    vocabulary, done = len(place.loaded.tokenizer), []
    harness = place.harness("choose", "write")
    model = place.supernet.view(UNEVEN)
    for task in harness.tasks:
        harness.scores(task, model, show=lambda answered, of: done.append((answered, of)))
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    assert (len(place.loaded.tokenizer), place.loaded.tokenizer.pad_token) == (vocabulary, None)
    assert done == [(n + 1, 3 * ITEMS) for n in range(3 * ITEMS)] + [(n + 1, ITEMS) for n in range(ITEMS)]
    assert capfd.readouterr() == ("", "")


def test_the_objective_is_the_mean_over_tasks_of_acc_norm_or_acc(place: Place) -> None:
    harness = place.harness("choose", "last")
    measure = harness.measure(place.supernet.view)
    model = place.supernet.view(UNEVEN)
    choose, last = (harness.scores(task, model)[0] for task in harness.tasks)
    value = (choose["choose_acc_norm"] + last["last_acc"]) / 2
    assert measure.values(UNEVEN) == {"acc": pytest.approx(value)}
    assert [(metric.name, metric.goal) for metric in measure.metrics] == [("acc", "max")]
    texts = [
        i.args[0] + i.args[1] for task in harness.tasks for t in task.loaded["tasks"].values() for i in t.instances
    ]
    assert measure.tokens == sum(map(len, texts))  # a token a character
    assert 0 < harness.measure(place.supernet.view, 0.25).tokens < measure.tokens / 2
    assert "choose, last will not be held out" in harness.remarks(["acc", "latency_ms"])[0]
    assert harness.remarks(["kl", "latency_ms"]) == []
    with pytest.raises(UserError, match="write has write_exact_match"):
        place.harness("write").measure(place.supernet.view)


def test_an_evaluator_gives_the_scores_and_what_they_depend_on(place: Place) -> None:
    (evaluator,) = place.harness("choose", limit=4).evaluators(place.supernet, None)
    (done,) = evaluator.evaluate([UNEVEN])
    assert (done.status, done.fidelity) == ("ok", evaluator.fidelity)
    assert set(done.values) == {f"choose_{name}{end}" for name in ("acc", "acc_norm") for end in ("", "_stderr")}
    assert {m.name: m.goal for m in evaluator.metrics} == {"choose_acc": "max", "choose_acc_norm": "max"}
    assert (done.facts["task"], done.facts["items"], done.facts["batch_size"]) == ("choose", 4, 1)
    assert type(done).from_json(json.loads(json.dumps(done.to_json()))) == done
    (broken,) = place.harness("choose").evaluators(place.supernet, Broken())  # type: ignore[arg-type]
    (failed,) = broken.evaluate([UNEVEN])
    assert (failed.status, failed.error) == ("failed", "RuntimeError: out of memory")


class Broken:
    """A tuning that fails."""

    stage_tokens = ()

    def model(self, candidate: Candidate, stage: int) -> None:
        raise RuntimeError("out of memory")


@pytest.mark.parametrize(
    ("tasks", "settings", "message"),
    [
        (["chose"], {}, "got 'chose'. Near names: choose"),
        (["gone"], {}, "expected to load gone and its data, got .*(\n.*)*HF_HUB_OFFLINE"),
        ([], {}, "got include_path=.* but no tasks"),
        (["choose"], {"limit": 0}, "limit above 0"),
        (["choose"], {"num_fewshot": -1}, "num_fewshot of at least 0"),
        (["choose"], {"batch_size": "much"}, "batch_size of at least 1"),
    ],
)
def test_a_mistake_is_one_clear_error(place: Place, tasks: list[str], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        place.harness(*tasks, **settings)


def test_a_missing_directory_or_lm_eval_is_a_clear_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="include_path to be a directory, there is none at nowhere"):
        Harness(place.loaded.tokenizer, TaskSettings(["choose"], include_path="nowhere"))
    plain = AutoTokenizer.from_pretrained(place.loaded.source)
    plain.eos_token = None
    with pytest.raises(UserError, match="a BOS or EOS token"):
        Harness(plain, TaskSettings(["choose"], include_path=str(place.tasks)))
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(UserError, match="cannot be imported here"):
        place.harness("choose")


def test_groups_with_a_score_are_one_task_and_others_their_tasks(place: Place) -> None:
    listed = {"group": "both", "task": ["choose", "last"]}
    scored = listed | {"group": "scored", "aggregate_metric_list": [{"metric": "acc"}]}
    for group in (listed, scored):
        (place.tasks / f"{group['group']}.yaml").write_text(yaml.safe_dump(group))
    assert [task.name for task in place.harness("both", "choose").tasks] == ["choose", "last"]
    harness = place.harness("scored")
    (task,) = harness.tasks
    model = place.supernet.view(UNEVEN)
    values, facts = harness.scores(task, model)
    each = place.harness("choose", "last")
    model = place.supernet.view(UNEVEN)
    scores = [each.scores(task, model)[0][f"{task.name}_acc"] for task in each.tasks]
    assert values["scored_acc"] == pytest.approx(sum(scores) / 2)
    assert task.facts["items"] == 2 * ITEMS
    assert set(facts["task_hash"]) == {"choose", "last"}
