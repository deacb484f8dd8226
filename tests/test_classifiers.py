"""Text classifiers: how they are read, what they are asked and learn, their exports, and a run to one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import ENCODERS, VOCAB, fitting, random_tokens, tiny_model
from helpers_classes import searched_and_exported
from helpers_embedder import save_classifier, save_embedder, save_masked_lm, save_token_classifier
from helpers_formats import answer_here
from safetensors.torch import save_file
from test_encoders import GONE, MakeSupernet
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification

from conf.compose import composed
from conf.settings import session_settings
from evaluators.accuracy import accuracy_evaluator
from evaluators.applicable import require_applicable
from evaluators.classes import ClassDivergence
from evaluators.data.labels import class_of, labelled_texts, labelled_words
from evaluators.data.masking import MaskedSplits, hidden_words
from evaluators.data.places import TextPlace
from evaluators.data.reading import read_data, read_stream
from evaluators.data.splits import digest_of, read_text
from evaluators.training.objectives import objective_of
from space.candidate import Candidate
from space.errors import UserError
from space.formats.checkpoint import Subnet
from space.formats.hf.export import export_checkpoint
from space.models.architectures import architecture_of
from space.models.facts import mask_token
from space.models.loading import load_model
from space.size import total_params
from space.supernet.shared import SharedWeights
from space.task import TASKS

pytestmark = pytest.mark.usefixtures("modules_cache")

TASK = "text_classification"
CUT = Candidate.from_rows([(6, 6, 48), (4, 4, 32), (0, 0, 16), (2, 2, 0)])
WHOLE = Candidate.from_rows([(6, 6, 16), (6, 6, 16), GONE, (6, 6, 16)])
RUN = (
    *(
        "model=classifier",
        "experiment=smoke",
        "data.length=16",
        "data.calibration_windows=24",
        "data.search_windows=12",
    ),
    *("data.heldout_windows=24", "latency.length=16", "latency.front_rounds=1", "latency.fit=2", "latency.check=2"),
    *("space.mlp_step=16", "budget.tokens=2500", "correction.windows=8", "distillation.tokens=640"),
    *("model.dtype=float32", "recommend.rise=1.9", "recommend.most=1.9"),
)


# All tasks of class probabilities, each in families that differ in kind.
TASKS_OF_FAMILIES = (
    *((family, TASK) for family in ENCODERS),
    *((family, "masked_lm") for family in ENCODERS),
    *((family, "token_classification") for family in ("roberta", "distilbert")),
)


def words(windows: int, length: int, task: str, seed: int = 0) -> torch.Tensor:
    """Windows of random tokens, some hidden where the task has them guessed."""
    tokens = random_tokens(windows, length, seed)
    return hidden_words(tokens, VOCAB - 1, start=True, end=True) if TASKS[task].masks else tokens


@torch.inference_mode()
def logits_of(model: Any, tokens: torch.Tensor, task: str = TASK) -> torch.Tensor:
    """What is compared: of an example (examples, classes), of each token, or of each hidden word."""
    logits: torch.Tensor = model(tokens).logits
    return logits[tokens == VOCAB - 1] if TASKS[task].masks else logits


@pytest.mark.parametrize(("family", "task"), TASKS_OF_FAMILIES)
def test_views_are_the_dense_model_and_its_exports_with_the_whole_head(
    family: str, task: str, make_supernet: MakeSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("space.formats.verify.answer_of", answer_here)
    supernet, tokens = make_supernet(family, task=task), words(3, 20, task, seed=1)
    dense, use = tiny_model(family, task)[0], TASKS[task]
    assert (supernet.spec.task, supernet.spec.tied_embeddings) == (task, use.masks)
    torch.testing.assert_close(logits_of(supernet.model, tokens), logits_of(dense, tokens), atol=2e-5, rtol=1e-4)
    for candidate, stock in ((fitting(family, CUT), False), (fitting(family, WHOLE), True)):
        view = supernet.view(candidate)
        assert sum(p.numel() for p in view.parameters()) == total_params(supernet.spec, candidate)
        place = tmp_path / candidate.key
        subnet = Subnet(supernet.model.config, None, supernet.spec, candidate)
        done = export_checkpoint(view, subnet, place, card={})
        assert done.trust_remote_code != stock
        model, loading = getattr(transformers, use.loader).from_pretrained(
            place, trust_remote_code=not stock, output_loading_info=True
        )
        assert not any(loading.values()), loading
        assert torch.equal(logits_of(model.eval(), tokens), logits_of(view, tokens))
        said = json.loads((place / "config.json").read_text())["architectures"]
        assert said == [type(dense).__name__ if stock else use.pruned]


@pytest.mark.parametrize(
    ("family", "task"),
    [("roberta", TASK), ("distilbert", TASK), ("bert", "token_classification"), ("roberta", "masked_lm")],
)
@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_divergences_are_those_of_the_models_own_logits(
    family: str, task: str, cache_bytes: int, make_supernet: MakeSupernet
) -> None:
    supernet, tokens = make_supernet(family, task=task), words(7, 12, task)
    compared = ClassDivergence(supernet, tokens, batch_size=3, cache_bytes=cache_bytes)
    dense = compared.heldout_values(Candidate.dense(supernet.spec))
    assert dense == {"heldout_class_kl": pytest.approx(0, abs=1e-6), "heldout_agreement": 1}
    teacher, student = (logits_of(each, tokens, task).flatten(0, -2) for each in (supernet.model, supernet.view(CUT)))
    assert len(teacher) == {TASK: 7, "token_classification": 7 * 12, "masked_lm": 7 * 2}[task]
    expected = F.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="batchmean").item()
    values = compared.heldout_values(CUT)
    assert values["heldout_class_kl"] == pytest.approx(expected, rel=1e-4)
    assert values["heldout_agreement"] == pytest.approx(
        (student.argmax(-1) == teacher.argmax(-1)).float().mean().item()
    )
    assert compared.divergence(CUT) == pytest.approx(compared.divergence(CUT, supernet.view(CUT)), abs=1e-6)


@pytest.mark.parametrize(
    ("family", "task"), [("bert", TASK), ("distilbert", "token_classification"), ("bert", "masked_lm")]
)
def test_a_step_teaches_all_that_is_kept_and_nothing_else(family: str, task: str, make_supernet: MakeSupernet) -> None:
    supernet, tokens = make_supernet(family, task=task), words(4, 12, task)
    shared = SharedWeights(supernet, [CUT], lambda name: True)
    loss_of = objective_of(supernet.spec).lesson(supernet.model, tokens)
    assert loss_of(shared.hidden(Candidate.dense(supernet.spec), tokens)).item() == pytest.approx(0, abs=1e-5)
    loss_of(shared.hidden(CUT, tokens)).backward()
    row = architecture_of(family)
    gone = {
        f"{row.stack.layers}.{index}.{layout.path(name)}"
        for index, shape in enumerate(CUT.layers)
        for kind, layout in row.blocks.items()
        for name in layout.projections
        if not shape.keeps(kind)
    }
    modules = {name.rpartition(".")[0] for name, p in shared.parameters.items() if p.grad is None}
    assert modules == gone
    weights = [p for name, p in shared.parameters.items() if name.endswith("weight") and p.grad is not None]
    assert all(weight.grad.abs().sum() > 0 for weight in weights)


def test_one_token_of_each_stretch_is_hidden_and_the_text_says_which() -> None:
    tokens = random_tokens(6, 20)
    shown = hidden_words(tokens, 0, start=True, end=True)
    assert torch.equal(shown, hidden_words(tokens, 0, start=True, end=True))
    hidden = shown == 0
    assert torch.equal(shown[~hidden], tokens[~hidden])
    assert not hidden[:, [0, 19]].any()
    assert [hidden[:, start:end].sum(1).tolist() for start, end in ((1, 8), (8, 15), (15, 19))] == [[1] * 6] * 3
    assert len({tuple(row) for row in hidden.tolist()}) > 3


def test_what_is_no_classifier_of_several_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing, such as classifier\.bias\. Use a checkpoint of a text classifier"):
        load_model(str(save_embedder(tmp_path / "embedder")), task=TASK)
    with pytest.raises(UserError, match=r"at least two classes.* num_labels=1"):
        load_model(str(save_classifier(tmp_path / "regression", labels=1)), task=TASK)
    with pytest.raises(UserError, match=r"a text classifier, of which none is embedded\. Set model\.path"):
        load_model(task=TASK)
    with pytest.raises(UserError, match=r"model\.task=causal_lm .* Set model=classifier"):
        load_model(str(tmp_path / "regression"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("latency=decode", r"latency\.scenario: expected prefill for a text classifier, got decode"),
        ("evaluate.tasks=[piqa]", r"evaluate\.tasks: expected \[\] for a text classifier"),
        ("space.vocabulary=[0.5]", r"space\.vocabulary: expected \[\]"),
    ],
)
def test_what_a_classifier_cannot_do_is_refused_by_name(change: str, said: str) -> None:
    settings = session_settings(composed("model=classifier", "model.path=x", change))
    with pytest.raises(UserError, match=said):
        require_applicable(settings)


def test_labels_are_of_held_out_texts_alone(tmp_path: Path) -> None:
    loaded = load_model(str(save_classifier(tmp_path)), task=TASK)
    place = TextPlace(str(tmp_path / "rows.jsonl"))
    text = read_text(place, loaded.tokenizer)
    examples = labelled_texts(place, text, loaded.tokenizer, loaded.model.config.label2id, 12, 1000)
    assert 40 <= len(examples) <= 48
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [classes.item() for _, classes in examples] == [row["label"] for row in rows[-len(examples) :]]
    assert all(inputs.shape == (1, 12) for inputs, _ in examples)
    assert [class_of(each, {"no": 0, "yes": 1}, "x") for each in ("yes", 0, "1")] == [1, 0, 1]
    with pytest.raises(UserError, match=r"the label of line 3 to be a class .* of no, yes, got '7'"):
        class_of(7, {"no": 0, "yes": 1}, "line 3")


def test_labels_of_words_are_those_of_their_first_tokens(tmp_path: Path) -> None:
    loaded = load_model(str(save_token_classifier(tmp_path)), task="token_classification")
    place = TextPlace(str(tmp_path / "rows.jsonl"))
    text = read_text(place, loaded.tokenizer)
    classes = loaded.model.config.label2id
    examples = labelled_words(place, text, loaded.tokenizer, classes, 12, 1000)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()][-len(examples) :]
    assert 40 <= len(examples) <= 48
    for (inputs, own), row in zip(examples, rows, strict=True):
        labels = [f"LABEL_{each}" for each in own[own >= 0].tolist()]
        assert labels == row["ner_tags"][: len(labels)]
        begins = [0, *(place + 1 for place, char in enumerate(" ".join(row["tokens"])) if char == " ")]
        assert (own[0] >= 0).nonzero().flatten().tolist() == [begin + 1 for begin in begins if begin + 1 < 11]
        assert inputs.shape == own.shape
    assert accuracy_evaluator(examples, lambda candidate: loaded.model, loaded.spec).fidelity.startswith("labels-")
    (tmp_path / "rows.jsonl").write_text('{"tokens": ["a", "b"], "labels": [1]}\n' * 20)
    text = replace(text, documents={"x": [(b"", 9), (digest_of("a b\n\n"), 10)]}, tokens={"x": torch.zeros(10)})
    with pytest.raises(UserError, match=r"as long a list of their labels .* got \['a', 'b'\] and \[1\]"):
        labelled_words(place, text, loaded.tokenizer, classes, 12, 1)


def test_a_masked_model_reads_hidden_words_in_all_parts_of_its_text(tmp_path: Path) -> None:
    loaded = load_model(str(save_masked_lm(tmp_path)), task="masked_lm")
    mask = loaded.tokenizer.mask_token_id
    assert (loaded.spec.mask_token, mask) == (3, 3)
    place = TextPlace(str(tmp_path / "text.txt"))
    text = read_data(place, loaded, None)
    assert isinstance(text, MaskedSplits)
    assert text.digest == read_text(place, loaded.tokenizer).digest
    whole = read_text(place, loaded.tokenizer).blocks("heldout", 20, 16)
    shown = torch.cat([inputs for inputs, _ in text.labelled(20, 16)])
    classes = torch.cat([each for _, each in text.labelled(20, 16)])
    assert torch.equal(shown, text.blocks("heldout", 20, 16))
    assert (classes >= 0).sum() == 20 * 2
    assert torch.equal(torch.where(classes >= 0, classes, shown), whole)
    stream = read_stream(TextPlace(), place, text, loaded, 16, seed=0)
    windows = torch.stack([window for window, _ in zip(stream, range(4), strict=False)])
    assert (windows == mask).sum(1).tolist() == [2] * 4
    loaded.tokenizer.mask_token = None
    with pytest.raises(UserError, match=r"tokenizer of x to have a mask token, .* a masked language model guesses"):
        mask_token(loaded.tokenizer, "x", loaded.spec.use)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_a_masked_model_is_read_as_hubs_have_it(family: str, tmp_path: Path) -> None:
    """With the head's matrix beside the one of embeddings, and with what other heads have left."""
    place = str(save_masked_lm(tmp_path, family))
    state = {name: p.clone() for name, p in load_model(place, task="masked_lm").model.state_dict().items()}
    others = {"cls.seq_relationship.weight": torch.ones(2, 36), f"{family}.pooler.dense.weight": torch.ones(36, 36)}
    save_file(state | others, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = load_model(place, task="masked_lm")
    assert loaded.spec.tied_embeddings
    assert sum(p.numel() for p in loaded.model.parameters()) == total_params(loaded.spec, Candidate.dense(loaded.spec))
    head = f"{architecture_of(family).head}.weight"
    save_file(state | {head: state[head] + 1}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"Expected one matrix .* but {head} and .* differ"):
        load_model(place, task="masked_lm")


def test_a_run_of_a_masked_language_model_ends_in_an_export(tmp_path: Path) -> None:
    model = save_masked_lm(tmp_path / "model")
    arguments = ("model=masked_lm", *RUN[1:], f"model.path={model}", f"data.path={model / 'text.txt'}")
    row = searched_and_exported(tmp_path, arguments, sure=False)
    out = tmp_path / "out"
    trusted = "auto_map" in json.loads((out / "config.json").read_text())
    exported = transformers.AutoModelForMaskedLM.from_pretrained(out, trust_remote_code=trusted)
    assert sum(p.numel() for p in exported.parameters()) == row["params"]
    assert "fill-mask" in (out / "README.md").read_text()


def test_a_run_of_a_classifier_ends_in_an_export(tmp_path: Path) -> None:
    model = save_classifier(tmp_path / "model")
    row = searched_and_exported(tmp_path, (*RUN, f"model.path={model}", f"data.path={model / 'rows.jsonl'}"))
    out = tmp_path / "out"
    trusted = "auto_map" in json.loads((out / "config.json").read_text())
    exported = AutoModelForSequenceClassification.from_pretrained(out, trust_remote_code=trusted)
    assert sum(p.numel() for p in exported.parameters()) == row["params"]
    assert "text-classification" in (out / "README.md").read_text()
