"""Sentence embedders: how they are read, what they are asked, what they learn, and a run to an export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import random_tokens
from helpers_embedder import save_embedder
from helpers_run import ended, start
from scipy.stats import spearmanr
from test_encoders import MakeSupernet, states_of
from test_fidelities import TABLE
from torch.nn import functional as F
from transformers import AutoModel

from conf.compose import composed
from conf.settings import session_settings
from evaluators.applicable import require_applicable
from evaluators.data.splits import split_tokens
from evaluators.embeddings import EmbeddingDistance, pooled
from evaluators.fidelities import fidelities
from evaluators.training.objectives import handed_on, objective_of
from evaluators.training.recipes import Healing, Polish, Recovery
from evaluators.training.shared_training import SharedTraining
from search.run.front import is_dense, read_front_csv
from space.candidate import Candidate
from space.errors import UserError
from space.models.loading import load_model
from space.models.streams import recorded_streams
from space.supernet.shared import SharedWeights
from space.task import TASKS

CUT = Candidate.from_rows([(6, 6, 48), (4, 4, 32), (6, 6, 16), (2, 2, 48)])
RUN = (
    *("model=embedder", "experiment=smoke", "data.length=16", "data.calibration_windows=24", "data.search_windows=12"),
    *("data.heldout_windows=24", "latency.length=16", "latency.front_rounds=1", "latency.fit=2", "latency.check=2"),
    *("space.mlp_step=16", "budget.tokens=3000", "correction.windows=8", "distillation.tokens=640"),
    *("model.dtype=float32", "recommend.rise=1.9", "recommend.most=1.9"),
)


def test_an_embedder_is_read_with_what_lies_beside_it(tmp_path: Path) -> None:
    loaded = load_model(str(save_embedder(tmp_path / "model")), task="embeddings")
    assert (loaded.spec.family, loaded.spec.task, loaded.spec.pooling) == ("bert", "embeddings", "cls")
    assert set(loaded.companions) == {"modules.json", "1_Pooling/config.json"}
    with pytest.raises(UserError, match=r"model\.task=causal_lm .* family bert.*model=embedder"):
        load_model(str(tmp_path / "model"))
    text = split_tokens({"a": ["some text " * 60]}, loaded.tokenizer)
    windows = text.blocks("calibration", 4, 12)
    assert windows.shape == (4, 12)
    assert (windows[:, 0] == 1).all()
    assert (windows[:, -1] == 2).all()
    assert (windows[:, 1:-1] > 2).all()


def test_another_pooling_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"1_Pooling/config\.json says max_tokens"):
        load_model(str(save_embedder(tmp_path / "model", "max_tokens")), task="embeddings")


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_distances_are_those_of_the_embeddings(cache_bytes: int, make_supernet: MakeSupernet) -> None:
    supernet, tokens = make_supernet("bert"), random_tokens(7, 12)
    asked = EmbeddingDistance(supernet, tokens, batch_size=3, cache_bytes=cache_bytes)
    dense = Candidate.dense(supernet.spec)
    assert asked.values(dense)["cosine_distance"] == pytest.approx(0, abs=1e-6)
    assert asked.heldout_values(dense)["heldout_rank_correlation"] == pytest.approx(1)
    rows = [F.normalize(states_of(m, tokens).mean(1), dim=-1) for m in (supernet.model, supernet.view(CUT))]
    distance = 1 - (rows[0] * rows[1]).sum(-1).mean().item()
    pairs = torch.triu_indices(7, 7, 1)
    expected = spearmanr(*((each @ each.T)[pairs[0], pairs[1]].numpy() for each in rows)).statistic
    values = asked.heldout_values(CUT)
    assert values["heldout_cosine_distance"] == pytest.approx(distance, abs=1e-6)
    assert values["heldout_rank_correlation"] == pytest.approx(expected, abs=1e-6)
    assert asked.divergence(CUT) == asked.divergence(CUT, supernet.view(CUT)) == values["heldout_cosine_distance"] > 0
    states = states_of(supernet.model, tokens)
    assert torch.equal(pooled(states, "cls"), F.normalize(states[:, 0], dim=-1))


def test_the_loss_is_zero_for_the_dense_model_alone(make_supernet: MakeSupernet) -> None:
    supernet, tokens = make_supernet("bert"), random_tokens(3, 12)
    shared, objective = SharedWeights(supernet, [CUT], lambda name: True), objective_of(supernet.spec)
    losses = {}
    for design in (Candidate.dense(supernet.spec), CUT):
        loss_of, streams = objective.loss_of(supernet.model, tokens, design.kept), dict[int, torch.Tensor]()
        hidden = shared.hidden(design, tokens, streams)
        assert [*streams] == [*design.kept]
        losses[design] = loss_of(hidden, streams), objective.lesson(supernet.model, tokens)(hidden)
    dense, cut = losses.values()
    assert [loss.item() for loss in dense] == pytest.approx([0, 0], abs=1e-6)
    assert cut[0].item() > cut[1].item() > 1e-3
    cut[0].backward()
    assert all(weight.grad is None or weight.grad.abs().sum() > 0 for weight in shared.parameters.values())


def test_streams_are_matched_where_the_next_layer_that_is_left_takes_them(make_supernet: MakeSupernet) -> None:
    """Of layers 0, 2 and 3 the first hands on what the dense layer 1 does."""
    supernet, tokens = make_supernet("bert"), random_tokens(3, 12)
    objective = objective_of(supernet.spec)
    with recorded_streams(supernet.model, {layer: layer for layer in range(4)}) as dense:
        hidden = states_of(supernet.model, tokens)
    assert handed_on((0, 2, 3)) == {0: 1, 2: 2}
    loss_of = objective.loss_of(supernet.model, tokens, (0, 2, 3))
    assert loss_of(hidden, {0: dense[1], 2: dense[2], 3: dense[3]}).item() == pytest.approx(0, abs=1e-6)
    off = (dense[0] - dense[1]).pow(2).sum(-1) / dense[1].pow(2).sum(-1)
    expected = objective.streams * off.mean().item() / 2
    assert expected > 1e-3
    assert loss_of(hidden, {**dense}).item() == pytest.approx(expected, rel=1e-5)


def test_embedders_are_trained_in_larger_steps_than_models_that_write() -> None:
    told = session_settings(composed("model=minilm")).distillation
    assert isinstance(told, Healing)
    use = TASKS["embeddings"]
    assert (told.step_windows, told.learning_rate) == (use.step_windows, use.healing_rate)
    own = session_settings(composed("model=minilm", "distillation.batch_size=3", "distillation.learning_rate=0.002"))
    assert isinstance(own.distillation, Healing)
    assert (own.distillation.step_windows, own.distillation.learning_rate) == (3, 0.002)
    filled = Recovery().of_task(use)
    assert (filled.step_windows, filled.learning_rate) == (use.polish_windows, use.polish_rate)
    assert Recovery(batch_size=3, accumulation=2, learning_rate=0.002).of_task(use).step_windows == 6
    words = Recovery().of_task(TASKS["causal_lm"])
    assert (words.step_windows, words.learning_rate) == (2, 2e-4)
    assert use.polish_windows > 2
    assert [Polish(windows=count).of_task(use).windows for count in (None, 0, 3)] == [use.refit_windows, 0, 3]
    assert Polish().of_task(TASKS["causal_lm"]).windows == 256


def test_what_is_learned_together_is_what_views_of_the_healed_supernet_compute(make_supernet: MakeSupernet) -> None:
    supernet, tokens = make_supernet("bert"), random_tokens(6, 12)
    training = SharedTraining(supernet, [CUT], Healing(tokens=1, trainable="all"))
    for _ in range(4):
        training.learn(tokens, 1e-4)
    first, *_, last = training.state()["losses"]
    assert last < first
    healed = supernet.with_weights(training.weights())
    with torch.no_grad():
        learned = training._shared.hidden(CUT, tokens)
    torch.testing.assert_close(states_of(healed.view(CUT), tokens), learned, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(learned, states_of(supernet.view(CUT), tokens), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("latency=decode", r"latency\.scenario: expected prefill for a sentence embedder, got decode"),
        ("latency.engine=llamacpp", r"latency\.engine: expected torch"),
        ("evaluate.tasks=[piqa]", r"evaluate\.tasks: expected \[\]"),
        ("data.long=128", r"data\.long: expected null"),
        ("distillation=own", "distillation: expected default"),
    ],
)
def test_what_an_embedder_cannot_do_is_refused_by_name(change: str, said: str) -> None:
    settings = session_settings(composed("model=minilm", change))
    with pytest.raises(UserError, match=said):
        require_applicable(settings)


def test_a_run_of_an_embedder_ends_in_exports_of_sentence_transformers(tmp_path: Path) -> None:
    model = save_embedder(tmp_path / "model")
    places = {"cwd": tmp_path, "cache": tmp_path / "cache"}
    arguments = (*RUN, f"model.path={model}", f"data.path={model / 'text.txt'}", "run_dir=run", "progress=lines")
    done = ended(start("run_search.py", *arguments, **places))
    assert done.returncode == 0, done.stderr
    assert "xdg-open run/front.html" in done.stdout
    assert "score_subnet.py" not in done.stdout + (tmp_path / "run" / "report.md").read_text()
    page = (tmp_path / "run" / "front.html").read_text()
    assert '{"name":"the front","x":"measured_speed_up","y":"heldout_cosine_distance"}' in page
    front = read_front_csv(tmp_path / "run" / "front.csv")
    assert {"cosine_distance", "heldout_cosine_distance", "heldout_rank_correlation", "latency_e2e_ms"} <= {*front}
    assert front[is_dense(front)]["kv_bytes"].tolist() == [0]
    pick = next(key for key, dense in zip(front["key"], is_dense(front), strict=True) if not dense)
    done = ended(start("export_subnet.py", "run_dir=run", f"pick={pick}", "recover.tokens=256", "out=out", **places))
    assert done.returncode == 0, done.stderr
    assert "last hidden state within" in done.stdout
    out = tmp_path / "out"
    assert (out / "modules.json").read_text() == (model / "modules.json").read_text()
    assert (out / "1_Pooling" / "config.json").exists()
    trusted = "auto_map" in json.loads((out / "config.json").read_text())
    exported = AutoModel.from_pretrained(out, trust_remote_code=trusted)
    assert sum(p.numel() for p in exported.parameters()) == front[front["key"] == pick]["params"].item()


def test_a_part_of_a_window_ends_as_the_window_does(make_supernet: MakeSupernet) -> None:
    """A cheap fidelity reads the beginning of each text, and the mark of its end."""
    supernet, tokens = make_supernet("bert"), random_tokens(5, 12)
    candidate = Candidate.from_rows([(3, 3, 16)] * 4)
    tokens[:, -1] = 2
    settings = {"context": 12, "batch_size": 4, "parts": (0.5,), "cache_bytes": 0, "ended": True}
    (cheap, _) = fidelities(supernet, TABLE, tokens, tokens, **settings).search
    text = torch.cat([tokens[:, :5], tokens[:, -1:]], 1)
    expected = EmbeddingDistance(supernet, text).values(candidate)["cosine_distance"]
    (got,) = cheap.evaluate([candidate])
    assert got.values["cosine_distance"] == pytest.approx(expected, abs=1e-6)
