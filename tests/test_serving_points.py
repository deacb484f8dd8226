"""The points of a run as they are served are those that are exported, and what they share is in memory once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers_commands import Place

from conf.compose import composed
from entries.serve_settings import serve_settings
from evaluators.paths import Paths
from evaluators.session import Session
from serving.points import Points, ends_of, open_points
from space.errors import UserError


def test_points_are_the_runs_models_and_share_what_is_equal(llama: Place) -> None:
    run = llama.run("run")
    overrides = (f"run_dir={run}",)
    settings = serve_settings(composed(*overrides, name="serve"), overrides)
    session = Session.open(settings.session, Paths(run, cache=llama.cache))
    shown: list[tuple[int, int]] = []
    points = open_points(session, settings.candidates, lambda done, of: shown.append((done, of)))
    count = len(settings.candidates)
    assert shown == [(done, count) for done in range(1, count + 1)]
    assert [*points.models] == [offer.id for offer in settings.offers]
    tokens = torch.arange(24)[None] % session.spec.vocab
    embedding = session.supernet.model.get_input_embeddings().weight
    alone = 0
    with torch.inference_mode():
        for name, candidate in settings.candidates.items():
            model, exported = points.models[name], session.finished_model(candidate)
            assert torch.equal(model(tokens).logits, exported(tokens).logits)
            assert model.get_input_embeddings().weight.data_ptr() == embedding.data_ptr()
            alone += sum(parameter.nbytes for parameter in exported.parameters())
    assert points.own_bytes["dense"] == 0
    assert points.dense_bytes == sum(parameter.nbytes for parameter in session.supernet.model.parameters())
    assert points.dense_bytes < points.bytes < alone
    assert all(own < points.dense_bytes for own in points.own_bytes.values())
    assert points.remark().startswith(f"{count} models in ")
    assert ends_of(session.loaded.model, session.loaded.tokenizer) == {session.loaded.tokenizer.eos_token_id}


def test_the_next_server_solves_no_refit(llama: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    run = llama.run("run")
    overrides = (f"run_dir={run}",)
    settings = serve_settings(composed(*overrides, name="serve"), overrides)

    def opened() -> Points:
        session = Session.open(settings.session, Paths(run, cache=llama.cache))
        return open_points(session, settings.candidates, lambda done, of: None)

    def unsolved(*given: Any) -> Any:
        raise AssertionError("a refit is solved")

    first, file = opened(), run / "serving" / "refits.safetensors"
    stamp = file.stat().st_mtime_ns
    tokens = torch.arange(24)[None] % 50
    with monkeypatch.context() as patch:
        patch.setattr("space.supernet.refits.refits", unsolved)
        patch.setattr("space.supernet.refits.Refits._attention_output", unsolved)
        again = opened()
    with torch.inference_mode():
        for name, model in first.models.items():
            assert torch.equal(model(tokens).logits, again.models[name](tokens).logits)
    assert (again.bytes, again.own_bytes) == (first.bytes, first.own_bytes)
    assert file.stat().st_mtime_ns == stamp
    meta = run / "supernet" / "supernet.json"
    content = meta.read_text()
    try:
        meta.write_text(content + "\n")  # of another supernet: they are solved again
        opened()
        assert file.stat().st_mtime_ns > stamp
    finally:
        meta.write_text(content)
    file.write_bytes(b"{}")
    with pytest.raises(UserError, match=r"to hold refits of the run's points, got: SafetensorError.*Delete it"):
        opened()
    file.unlink()
