"""report.md: complete, of the run's own numbers, and harmless whatever a model or a run is called."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from helpers_front import finished_run
from helpers_toy import default_config, toy_spec
from helpers_watch import KL, LATENCY, answer, narrow, search_ended
from markdown_it import MarkdownIt

from evaluators.base import Evaluation
from search.agreement import unseen_agreement
from search.run.versions import versions
from search.views.report.page import report_text
from space.markdown import code, escaped, table

HOSTILE = "<script>alert(1)</script> | `a` *b* [c](http://d) ![e](f) $g$\n# h"
RUN_DIR = Path("results/x\n```\n<script>")
SUMMARY = {
    "model": {**toy_spec(3).to_json(), "name": HOSTILE},
    "text": "0123",
    "dtype": "torch.float32",
    "latency": {"device": "a | b", "threads": 2},
    "latency_table": ["prefill of 1 x 64 tokens: median error 2.0%"],
    "latency_table_error": {"median": 0.02, "worst": 0.05, "rank_correlation": None},
    "rank_correlation": {"kl, heldout_kl": None, "untuned_kl, kl": 0.5},
    "sources": {"<b>corpus.txt": 12345},
    "arguments": ["space=depth", "name=```"],
    "budget": {"minutes": 15, "tokens": 440_000, "search_windows": 4, "healing_tokens": 120_000},
    "dropped": 1,
    "long_context": "none: <i>reason</i>",
    "versions": versions(),
    "dense": {"params": 2e6, "decoder_params": 1e6},
}


def trained(channels: int) -> Evaluation:
    low = answer(channels)
    return replace(low, fidelity="distilled-64", values={**low.values, "kl": low.values["kl"] / 2}, predicted={})


EVALUATIONS = [
    *map(answer, (16, 14, 12, 8, 4)),
    *map(trained, (14, 12, 8)),
    Evaluation(narrow(2), "search", "failed", error="x"),
]


def report(run_dir: Path = RUN_DIR, rise: float = 0.15, loss: float = 0.0, *settings: str) -> str:
    front = search_ended().result.front
    tuned = front.assign(untuned_kl=2 * front["kl"], refit_ppl=3 * front["heldout_ppl"])
    tuned = tuned.assign(
        heldout_ppl=[10.0, *(10.0 * math.exp(loss + step) for step in (0.0, 0.1))], heldout_long_ppl=8.0
    )
    samples = {"prompts": [HOSTILE, "It is"], "new_tokens": 3}
    samples["texts"] = {key: [HOSTILE, f" {key}\nnext"] for key in tuned["key"][:2]}
    config = default_config(f"recommend.rise={rise}", *settings)
    run = finished_run(run_dir, tuned, tuned, (KL, LATENCY), {**SUMMARY, "samples": samples}, config=config)
    return report_text(run, EVALUATIONS)


def test_hostile_names_are_text() -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(report())
    inline = [child for token in tokens for child in token.children or []]
    assert not [token for token in [*tokens, *inline] if token.type.startswith("html")]
    assert [t.attrs["href"] for t in inline if t.type == "link_open"] == ["front.html", "front.csv"]
    assert not [token for token in inline if token.type == "image"]
    heads = [tokens[place + 1].content for place, token in enumerate(tokens) if token.type == "heading_open"]
    assert heads[1:] == [
        *("The front", "What its points write", "What was searched", "What was asked"),
        *("Before and after refit and distillation", "How far to trust it", "To do it again"),
    ]
    (commands,) = [token.content for token in tokens if token.type == "fence"]
    assert "python run_search.py space=depth 'name=```'" in commands
    assert commands.count("<script>") == 3  # of the run's directory: resume, export, score


def test_every_table_has_as_many_cells_in_each_row() -> None:
    tables = re.findall(r"(?:^\|.*\|\n)+", report(), flags=re.MULTILINE)
    assert len(tables) == 7
    for rows in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows.splitlines()}) == 1


def test_the_numbers_are_the_runs_own() -> None:
    text = report()
    eight, four = (answer(channels).candidate.key for channels in (8, 4))
    assert f"| `{eight}` | 0.5000 | 0.2500 | 30.00 | 10.00 |" in text
    assert re.search(rf"\| `{four}` \| recommended, fastest \| 1\.30× .* \| 0\.100 \| 0\.000 \|\n", text)
    assert "| `" + eight + "` | 0.00 | " in text
    assert f" |  {eight} next |" in text
    assert f"Recommended: {four}, 1.30 × as fast, rise 0.10 nats a token (1.11 × the dense perplexity)." in text
    assert "Windows are of 512 tokens; longer ones: none: " in text
    assert "| `search` | 6 | 1 | 500 | 0 s |" in text
    assert "| `search` | `kl` | 5 | 1.00 |" in text
    assert "| `search` | `distilled-64` | 3 | 1.00 | 1.00 |" in text
    assert "median error 2.0%, worst 5.0%\n" in text
    assert "`kl` and `heldout_kl`: not defined" in text
    assert "12,345 tokens" in text
    assert f"torch {versions()['torch']}" in text
    assert "Seed: 0." in text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((), "on 16,384 tokens and weights that all designs share, healed by 120,000 tokens of distillation"),
        (("distillation=own",), "on 16,384 tokens and distillation from the dense model for 4,096 tokens"),
        (("distillation=none", "search.distillation=loop"), "on 16,384 tokens, as it is exported"),
        (("search.distillation=off",), "on 16,384 tokens, as it is exported"),
    ],
)
def test_what_was_done_to_the_points_is_said(settings: tuple[str, ...], words: str) -> None:
    assert words in report(RUN_DIR, 0.15, 0.0, *settings)


def test_without_a_recommended_point_the_report_names_the_trade_and_its_commands() -> None:
    text, keys = report(Path("results/x"), loss=0.5), [answer(channels).candidate.key for channels in (8, 4)]
    assert "No point of the front is recommended: none is within a rise of 0.15 nats a token" in text
    assert f"- 1.27 × as fast, rise 0.50 nats a token (1.65 × the dense perplexity): `{keys[0]}`" in text
    assert f"\npython export_subnet.py run_dir=results/x pick={keys[0]}\n" in text
    assert f"\npython score_subnet.py run_dir=results/x pick={keys[0]} " in text


def test_a_surrogate_is_judged_by_what_it_expected_alone() -> None:
    (row,) = unseen_agreement(EVALUATIONS)
    assert (row.metric, row.count, row.tau) == ("kl", 5, pytest.approx(1.0))
    assert row.off == pytest.approx(1.0)  # expected 0.5 for 0.25, in the middle
    assert unseen_agreement([trained(8)]) == []


def test_markdown() -> None:
    assert escaped("a|b_<c>&\n") == r"a\|b\_&lt;c&gt;&amp; "
    assert table(["x", "y"], [["1", "2"]]) == "| x | y |\n| :-- | --: |\n| 1 | 2 |\n"
    assert code("a ```` b").splitlines()[0] == "`````"
