"""A run whose designs choose their vocabularies: searched, healed, ended in bits per byte, and exported."""

from __future__ import annotations

import json
from pathlib import Path

from helpers_commands import Place, good
from helpers_run import add_merges, ended
from transformers import AutoTokenizer

from search.run.directory import FRONT_FILE, POINTS_FILE, REPORT_FILE
from search.run.front import is_dense, read_front_csv

SETTINGS = (
    *("space.vocabulary=[56]", "objectives=[bpb,params]", "budget.evaluations=null", "budget.tokens=9000"),
    *("search.distillation=loop", "distillation=default", "distillation.tokens=384"),
    *("search.algorithm.starts=6", "search.algorithm.sweep_levels=1", "search.algorithm.round_size=8"),
)


def test_designs_choose_their_vocabularies_and_an_export_has_its_own(tmp_path: Path) -> None:
    place = Place(tmp_path, "llama")
    add_merges(place.model, 10)
    good(ended(place.search("run", *SETTINGS)))
    run = place.run("run")
    front, points = read_front_csv(run / FRONT_FILE), read_front_csv(run / POINTS_FILE)
    assert is_dense(front).sum() == 1
    assert {"bpb", "nll", "heldout_bpb", "heldout_ppl", "vocabulary_removed"} <= {*front}
    assert not {"kl", "heldout_kl"} & {*front, *points}
    few = points[points["candidate"].map(lambda candidate: candidate.vocabulary == 56)]
    assert 0 < len(few) < len(points)
    assert set(few["vocabulary_removed"]) == {0.125}
    assert "of 56 of 64 tokens: " in (run / REPORT_FILE).read_text()

    key = str(few["key"].iloc[-1])
    refused = ended(place.score("run", f"pick={key}", "tasks=[piqa]"))
    assert refused.returncode == 1
    assert "is asked with one tokenizer. Set evaluate.tasks=[], and score an export" in refused.stderr

    other = tmp_path / "other.txt"
    other.write_text("~" * 400)
    refused = ended(place.export("run", f"pick={key}", "vocabulary.tokens=2000", f"vocabulary.data.path={other}"))
    assert refused.returncode == 1
    assert "expected text that uses tokens which are dropped, got text without any" in refused.stderr

    done = good(ended(place.export("run", f"pick={key}", "vocabulary.tokens=2000")))
    out = run / "exports" / key
    assert "tokens around dropped ones: bits a byte of the search's text" in done.stdout
    assert "tokens kept 56 of 64" in done.stdout
    assert len(AutoTokenizer.from_pretrained(out, trust_remote_code=True)) == 56
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 56
    metrics = (out / "README.md").read_text().partition("## Metrics\n")[2].partition("\n## ")[0]
    table = front if key in set(front["key"]) else points  # the front's are after healing
    assert f"| bpb | {table.loc[table['key'] == key, 'bpb'].item()}" in metrics
