"""The vocabulary as a gene: nothing changes without it; with it, designs are priced, timed and judged by it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model
from helpers_formats import byte_level
from helpers_space import make_spec, tiny_space
from helpers_toy import toy_spec

from evaluators.base import Evaluation
from evaluators.cost import cost_measure, vocabulary_measure
from evaluators.latency.steps import Steps
from evaluators.latency.table import LatencyTable, PhaseTable
from evaluators.latency.workload import Workload
from evaluators.metrics import metrics_named
from evaluators.vocabulary.bits import bits_per_byte
from evaluators.vocabulary.judged import BitsPerByte
from evaluators.vocabulary.of_run import RunVocabulary
from evaluators.vocabulary.ranked import Ranked, Vocabulary, cut
from search.algorithms import NSGA2
from search.protocol import Algorithm, Task, starting_designs
from search.run.front import front_table, is_dense
from search.surrogate.surrogate import SurrogateNSGA2
from search.tables import tabulate
from space.candidate import Candidate
from space.errors import UserError
from space.formats.trimmed import trimmed_model
from space.size import total_params
from space.space import SearchSpace
from space.spec import ModelSpec
from space.supernet.supernet import Supernet
from space.vocabulary.levels import Levels

LAYERS = 6
TOY = replace(toy_spec(layers=LAYERS), vocab=512)
COSTS = cost_measure(TOY, context=64)
SETTINGS: dict[str, Any] = {"mlp_step": 4, "min_decoder_params": 0.3}
SMALLER = Candidate.from_rows([[4, 2, 16], [0, 0, 32], [6, 3, 0], [3, 3, 48]])


def lost(candidate: Candidate) -> np.ndarray:
    return np.array([[1 - shape.query_heads / 4, 1 - shape.mlp_channels / 16] for shape in candidate.layers]) ** 2


def toy_values(candidate: Candidate, dear: float = 0.0) -> dict[str, float]:
    """Costs, and a loss to which that of a vocabulary adds: `dear` for a half of the tokens."""
    error = lost(candidate) * np.arange(1, 2 * LAYERS + 1).reshape(LAYERS, 2) / 16
    loss = float(error.sum() + error.sum() ** 2)
    of_tokens = dear * (1 - candidate.vocabulary / 512) * 2 if candidate.vocabulary else 0.0
    more = {"refit_error": float(lost(candidate).sum()), "kl": loss, "bpb": 1 + loss + of_tokens}
    return {**COSTS.values(candidate), **vocabulary_measure(TOY).values(candidate), **more}


def task(space: SearchSpace, *objectives: str, dear: float = 0.0) -> Task:
    def free(candidate: Candidate) -> Mapping[str, float]:
        return {name: n for name, n in toy_values(candidate, dear).items() if name not in ("kl", "bpb")}

    return Task(space, metrics_named(*objectives), 0, free, starting_designs(space, range(LAYERS)), 1)


def asked(algorithm: Algorithm, count: int, dear: float = 0.0) -> list[Evaluation]:
    answers: list[Evaluation] = []
    while len(answers) < count:
        questions = algorithm.ask(10)
        told = [Evaluation(q.candidate, "search", values=toy_values(q.candidate, dear)) for q in questions]
        algorithm.tell(told)
        answers += told
    return answers


def digest(candidates: list[Candidate]) -> str:
    return hashlib.sha256(" ".join(candidate.key for candidate in candidates).encode()).hexdigest()[:12]


def test_without_the_gene_the_same_candidates_are_asked_as_before_it_was_there() -> None:
    space = SearchSpace(TOY, **SETTINGS)
    assert space.vocabulary == ()
    assert digest(space.samples(100)) == "a4db0a1290b3"  # as of the last commit before the gene, as those below
    of_nsga2 = asked(NSGA2(task(space, "kl", "decoder_params")), 150)
    assert digest([answer.candidate for answer in of_nsga2]) == "6a5fb8c87b4c"
    surrogate = SurrogateNSGA2(task(space, "kl", "decoder_params"), predictor="ridge", population=20, generations=4)
    assert digest([answer.candidate for answer in asked(surrogate, 60)]) == "aee80cbea1aa"


def test_a_vocabulary_is_a_part_of_a_candidate_and_of_its_key_where_it_is_not_the_whole_one() -> None:
    few = Candidate(SMALLER.layers, vocabulary=64)
    assert few.to_json() == {**SMALLER.to_json(), "vocabulary": 64}
    assert Candidate.from_json(few.to_json()) == few != SMALLER == few.blocks
    assert SMALLER.blocks is SMALLER
    assert few.key != SMALLER.key
    for wrong in (-8, 2.5, True):
        with pytest.raises(ValueError, match="a vocabulary of at least 0 tokens, got"):
            Candidate.from_json({**SMALLER.to_json(), "vocabulary": wrong})


def test_a_space_has_each_level_and_the_whole_vocabulary() -> None:
    space = tiny_space(vocabulary=[0.5, 80])
    assert space.vocabulary == (56, 80)  # multiples of 8 of 97 tokens
    assert (space.kinds[-1], space.levels[-1]) == ("vocabulary", 3)
    designs = space.samples(60)
    assert {design.vocabulary for design in designs} == {0, 56, 80}
    assert all(space.contains(design) and space.decode(space.encode(design)) == design for design in designs)
    assert not space.contains(Candidate(designs[0].layers, vocabulary=64))
    assert not tiny_space().contains(Candidate(designs[0].layers, vocabulary=56))
    assert {design.vocabulary for design in (*space.uniform_ladder(), *space.depth_ladder(range(4)))} == {0}
    assert Candidate.dense(space.spec) == space.decode(space.levels - 1)


def test_bounds_on_the_decoder_leave_the_vocabulary_as_it_is() -> None:
    space, rng = tiny_space(vocabulary=[0.5], max_decoder_params=0.5), np.random.default_rng(0)
    genes = space.levels - 1
    for level in (0, 1):
        genes[-1] = level
        mended = [space.repair(genes, rng)[-1] for _ in range(20)]
        assert set(mended) == {level}


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        ([1.0], "different levels, each a part of the 97 tokens"),
        ([200], "different levels"),
        ([0.5, 0.52], "different levels"),
        ([0], "a list of parts"),
        (0.5, "a list of parts"),
        (["all"], "a list of parts"),
    ],
)
def test_levels_that_are_none_are_refused(levels: Any, said: str) -> None:
    with pytest.raises(UserError, match=f"space.vocabulary: expected {said}"):
        tiny_space(vocabulary=levels)


@pytest.mark.parametrize("tied", [True, False])
def test_costs_are_those_of_the_rows_that_are_kept_and_add_up(tied: bool) -> None:
    spec = make_spec(tied_embeddings=tied)
    few, matrices = Candidate(SMALLER.layers, vocabulary=56), 1 if tied else 2
    assert total_params(spec, few) == total_params(spec, SMALLER) - (97 - 56) * spec.hidden * matrices
    costs = cost_measure(spec, context=64)
    whole, fewer = costs.values(SMALLER), costs.values(few)
    assert fewer["macs_per_token"] == whole["macs_per_token"] - (97 - 56) * spec.hidden
    assert {name for name in whole if whole[name] != fewer[name]} == {"params", "weights_bytes", "macs_per_token"}
    space = SearchSpace(spec, mlp_step=16, vocabulary=[0.5])
    tables = tabulate(space, costs.values, ["params", "macs_per_token"])
    for design in space.samples(20):
        for name, table in tables.items():
            assert table.total(space.encode(design)) == costs.values(design)[name]


def test_the_dense_model_with_fewer_tokens_is_not_the_dense_model() -> None:
    dense = Candidate.dense(TOY)
    rows = [(each, toy_values(each)) for each in (dense, Candidate(dense.layers, vocabulary=256))]
    assert is_dense(front_table(rows, rows[0])).tolist() == [True, False]


@pytest.mark.parametrize("algorithm", ["nsga2", "surrogate"])
@pytest.mark.parametrize(("dear", "wanted"), [(0.0, True), (9.0, False)])
def test_a_search_finds_out_whether_a_smaller_vocabulary_pays(algorithm: str, dear: float, wanted: bool) -> None:
    space = SearchSpace(TOY, **SETTINGS, vocabulary=[0.5, 0.75])
    asking = task(space, "bpb", "params", dear=dear)
    if algorithm == "nsga2":
        answers = asked(NSGA2(asking), 200, dear)
    else:
        answers = asked(SurrogateNSGA2(asking, predictor="ridge", population=20, generations=3), 100, dear)
    assert {answer.candidate.vocabulary for answer in answers} == {0, 256, 384}
    best = [answer for answer in answers[-30:] if answer.values["bpb"] < 3]
    few = np.mean([answer.candidate.vocabulary == 256 for answer in best])
    assert few > 0.6 if wanted else few < 0.2


def test_a_latency_table_has_the_head_of_each_vocabulary() -> None:
    blocks = {"attention": {(6, 3): 2.0}, "mlp": {(48,): 3.0}}
    plain = PhaseTable(20.0, 5.0, blocks, 0.01)
    table = LatencyTable({"prefill": plain}, {}, Workload())
    assert "vocabulary_ms" not in table.to_json()  # so that digests of before stay
    few = PhaseTable(20.0, 5.0, blocks, 0.01, vocabulary_ms={56: 4.0})
    again = LatencyTable.from_json(LatencyTable({"prefill": few}, {}, Workload()).to_json()).phases["prefill"]
    layers = Candidate.from_rows([[6, 3, 48]]).layers
    assert replace(again, error=few.error) == few
    assert (again.ms(Candidate(layers)), again.ms(Candidate(layers, 56))) == (10.0, 9.0)
    assert again.fitted({Candidate(layers): 20.0}).vocabulary_ms[56] > 4.0
    with pytest.raises(KeyError):
        again.ms(Candidate(layers, 48))


def supernet_of(family: str, place: Path, **changes: Any) -> tuple[Supernet, RunVocabulary, torch.Tensor]:
    """A supernet whose model has a tokenizer, and windows of a text."""
    tokenizer = byte_level("llama-bpe")
    model, spec = tiny_model(family, vocab_size=len(tokenizer) + 4, **changes)
    model.config.bos_token_id, model.config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    loaded: Any = SimpleNamespace(tokenizer=tokenizer, spec=spec, model=model, surroundings=None)
    whole = Vocabulary(loaded, "space.vocabulary")
    ranked = Ranked.from_json(Ranked(whole._levels(()), 0, ()).to_json())
    ids = tokenizer("the other weather gathered: there they are, together with the rest of them. " * 8)["input_ids"]
    windows = torch.tensor(ids[1:]).unfold(0, 24, 24)  # without the first token
    supernet = Supernet.prepare(model, spec, windows, place, dtype=torch.float32)
    return supernet, RunVocabulary(whole, (264, 272), ranked, None), windows


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_bits_are_those_of_the_model_and_the_tokenizer_that_an_export_has(family: str, tmp_path: Path) -> None:
    supernet, vocabulary, windows = supernet_of(family, tmp_path)
    judge = BitsPerByte(supernet, vocabulary, windows, batch_size=3, cache_bytes=1 << 20)
    texts = vocabulary.texts(windows)
    designs = [Candidate(SMALLER.layers, count) for count in (0, 264, 272)]
    measure = judge.measure()
    assert measure.ahead is not None
    measure.ahead(designs)
    lengths = []
    for design in designs:
        tokens = cut(vocabulary.tokenizer(design.vocabulary), texts)
        lengths.append(sum(map(len, tokens)))
        model, start = supernet.view(design.blocks), vocabulary.whole.start
        if design.vocabulary:
            kept = vocabulary.kept(design.vocabulary)
            model, start = trimmed_model(model, kept), kept.index(start)
        values = measure.values(design)
        assert values["bpb"] == pytest.approx(bits_per_byte(model, tokens, texts, start), rel=1e-5)
        size = sum(len(text.encode()) for text in texts)
        assert values["nll"] == pytest.approx(values["bpb"] * np.log(2) * size / lengths[0])
        of_model = judge.heldout_measure(lambda each: supernet.view(each.blocks)).values(design)
        assert of_model["heldout_bpb"] == pytest.approx(values["bpb"], rel=1e-5)
        assert of_model["heldout_ppl"] == pytest.approx(np.exp(values["nll"]), rel=1e-4)
    assert lengths[1] > lengths[2] >= lengths[0] == measure.tokens
    with pytest.raises(ValueError, match="expected a candidate of 4 layers, got 4 of 264 tokens"):
        supernet.view(designs[1])


def test_what_is_timed_has_the_rows_of_its_vocabulary(tmp_path: Path) -> None:
    supernet, _, _ = supernet_of("llama", tmp_path)
    workload = Workload(length=8)
    (phase,) = workload.phases.values()
    with torch.inference_mode():
        step = Steps(supernet, workload).step(Candidate(SMALLER.layers, 280), phase)
        assert step().logits.shape[-1] == 280
    assert step.args[0].max() < 280


def test_a_model_without_a_tokenizer_has_no_smaller_vocabulary() -> None:
    spec: ModelSpec = make_spec()
    loaded: Any = SimpleNamespace(tokenizer=None, spec=spec, model=None)
    with pytest.raises(UserError, match=r"space\.vocabulary: expected a model with a tokenizer, got none"):
        Vocabulary(loaded, "space.vocabulary")


def test_a_ranking_by_little_text_says_so() -> None:
    levels = Levels(tuple(range(1000)), 10)
    assert Ranked(levels, 30_000, ("a",)).remarks() == []
    (line,) = Ranked(levels, 29_999, ("a",)).remarks()
    assert "ranked by 29,999 tokens of text: by fewer than 30,000" in line
    assert "vocabulary.data.path" in line
