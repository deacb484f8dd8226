"""Exported checkpoints: same logits, loadable without this project, and there only when they are right."""

from __future__ import annotations

import copy
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import UNLIKE, VOCAB, each_kind, fitting, random_tokens, tiny_model
from helpers_formats import answer_here
from huggingface_hub import ModelCard, save_torch_state_dict
from safetensors import safe_open
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

import space.formats.checkpoint
from space.candidate import Candidate
from space.errors import UserError
from space.formats.checkpoint import Subnet
from space.formats.hf.export import Export, export_checkpoint
from space.formats.hf.reload_check import in_float32
from space.formats.reference import Reference
from space.formats.verify import verify_checkpoint
from space.models.architectures import ARCHITECTURES
from space.size import total_params
from space.supernet.supernet import Supernet

pytestmark = pytest.mark.usefixtures("modules_cache")

MakeSupernet = Callable[..., Supernet]
DENSE = (6, 3, 48)
GONE = (0, 0, 0)
UNEQUAL = {
    "no attention in layer 0": [(0, 0, 48), DENSE, DENSE, DENSE],
    "no MLP": [DENSE, (6, 3, 0), DENSE, DENSE],
    "first and last layer gone": [GONE, DENSE, (6, 3, 16), GONE],
    "middle layer gone, hole before it": [(0, 0, 48), GONE, DENSE, DENSE],
    "one KV group": [(2, 1, 48), (2, 1, 16), DENSE, (1, 1, 8)],
    "one query head a group": [(3, 3, 48), (2, 2, 32), (3, 3, 48), (3, 3, 16)],
    "attention in the last layer only": [(0, 0, 24), GONE, (0, 0, 8), (4, 2, 0)],
}
EQUAL = {"dense": [DENSE] * 4, "narrow": [(2, 1, 16)] * 4, "shallow": [DENSE, GONE, GONE, DENSE]}
CARD = {"Metrics": {"kl": 0.25}, "Provenance": {"run": "results/tiny"}}


def load(directory: Path, *, trust_remote_code: bool, **settings: Any) -> Any:
    model, loading = AutoModelForCausalLM.from_pretrained(
        directory, trust_remote_code=trust_remote_code, output_loading_info=True, **settings
    )
    assert not any(loading.values()), loading
    return model.eval()


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("space.formats.verify.answer_of", answer_here)
    monkeypatch.setattr("space.formats.verify.NEW_TOKENS", 3)  # tests/test_pruned_modeling.py asks caches for more


def logits_of(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(tokens, use_cache=False).logits
    return logits


def export(supernet: Supernet, candidate: Candidate, directory: Path, **changes: Any) -> Export:
    arguments: dict[str, Any] = {"model": None, "tokenizer": None, "card": CARD} | changes
    model = arguments.pop("model") or supernet.view(candidate)
    config = supernet.model.config
    generation = arguments.pop("generation_config", None)
    subnet = Subnet(config, arguments.pop("tokenizer"), supernet.spec, candidate, generation)
    return export_checkpoint(model, subnet, directory, **arguments)


def assert_same_logits(model: Any, supernet: Supernet, candidate: Candidate) -> None:
    """Compares with the subnet as the search asks it, bit for bit.

    Products of the few tokens of an expert are rounded by where in memory its tensors are, to some last bits.
    """
    tokens, routed = random_tokens(2, 20, seed=2), supernet.spec.routed
    atol = (0.1 if model.dtype == torch.bfloat16 else 1e-4) if routed else 0.0
    expected = logits_of(supernet.view(candidate), tokens)
    torch.testing.assert_close(logits_of(model, tokens), expected, atol=atol, rtol=0.0)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(("family", "name"), each_kind(UNEQUAL, UNLIKE))
def test_unequal_layers_reload(family: str, name: str, make_supernet: MakeSupernet, tmp_path: Path) -> None:
    shapes = UNEQUAL[name]
    supernet, candidate = make_supernet(family), fitting(family, shapes)
    done = export(supernet, candidate, tmp_path / "pruned")
    config = json.loads((done.directory / "config.json").read_text())
    assert config["model_type"] == f"pruned_{family}"
    with pytest.raises(ValueError, match="trust_remote_code"):  # not stock layers with random weights in the holes
        AutoModelForCausalLM.from_pretrained(done.directory, trust_remote_code=False)
    model = load(done.directory, trust_remote_code=True)
    assert_same_logits(model, supernet, candidate)
    assert config[ARCHITECTURES[family].depth] == sum(shape != GONE for shape in shapes)
    assert config["head_dim"] == supernet.spec.head_dim
    assert model.num_parameters() == total_params(supernet.spec, candidate)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(("family", "name"), each_kind(EQUAL, UNLIKE))
def test_equal_layers_are_a_plain_checkpoint(
    family: str, name: str, make_supernet: MakeSupernet, tmp_path: Path
) -> None:
    supernet, candidate = make_supernet(family), fitting(family, EQUAL[name])
    done = export(supernet, candidate, tmp_path / "pruned")
    narrow = any(0 < layer.query_heads < supernet.spec.query_heads for layer in candidate.layers)
    own_code = ARCHITECTURES[family].heads_fill and narrow
    assert done.trust_remote_code == own_code
    suffixes = sorted(path.suffix for path in done.directory.iterdir())
    assert suffixes == [".json", ".md", *[".py"] * own_code, ".safetensors", ".svg"]
    model = load(done.directory, trust_remote_code=own_code)
    assert_same_logits(model, supernet, candidate)
    assert (type(model) is type(supernet.model)) != own_code
    assert model.num_parameters() == total_params(supernet.spec, candidate)


@pytest.mark.usefixtures("in_process")
def test_equal_layers_whose_heads_do_not_divide_the_hidden_size(unlike_family: str, tmp_path: Path) -> None:
    dense, spec = tiny_model(unlike_family, hidden_size=48, num_attention_heads=6, num_key_value_heads=6)
    supernet = Supernet.prepare(dense, spec, random_tokens(12, 24), tmp_path / "supernet", dtype=torch.float32)
    done = export(supernet, Candidate.from_rows([(5, 5, 16)] * 4), tmp_path / "pruned")
    insist = ("llama", "gemma3_text", "gpt2", "gpt_neox")  # families whose stock configs do
    assert done.trust_remote_code == (unlike_family in insist)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(("family", "name"), each_kind(["narrow", "no MLP"], UNLIKE))
def test_an_export_computes_the_bits_of_its_view_in_bfloat16(
    family: str, name: str, make_supernet: MakeSupernet, tmp_path: Path
) -> None:
    supernet, candidate = make_supernet(family, torch.bfloat16), fitting(family, (EQUAL | UNEQUAL)[name])
    done = export(supernet, candidate, tmp_path / "pruned")
    model = AutoModelForCausalLM.from_pretrained(done.directory, trust_remote_code=done.trust_remote_code).eval()
    assert model.dtype == torch.bfloat16
    assert_same_logits(model, supernet, candidate)


@pytest.mark.usefixtures("in_process")
def test_merged_groups_are_exported(tmp_path: Path, make_supernet: MakeSupernet) -> None:
    supernet = make_supernet("qwen2")
    for shapes, own_code in (([(6, 1, 48)] * 4, False), ([(6, 1, 48), DENSE, (6, 1, 16), (2, 2, 48)], True)):
        candidate = Candidate.from_rows(shapes)
        done = export(supernet, candidate, tmp_path / f"pruned-{own_code}")
        assert done.trust_remote_code == own_code
        assert_same_logits(load(done.directory, trust_remote_code=own_code), supernet, candidate)
        assert done.verification.difference <= 1e-4


def test_a_fresh_process_loads_the_checkpoint(make_supernet: MakeSupernet, tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    )
    supernet = make_supernet("gemma3_text")
    candidate = Candidate.from_rows([(0, 0, 48), GONE, (4, 2, 0), (3, 3, 16)])
    done = export(
        supernet,
        candidate,
        tmp_path / "new" / "pruned-1.5",
        tokenizer=tokenizer,
        generation_config=GenerationConfig(temperature=0.7, do_sample=False, eos_token_id=2),
    )
    assert done.verification.difference <= 1e-4
    assert done.verification.new_tokens > 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["pruned-1.5"]
    assert AutoTokenizer.from_pretrained(done.directory, trust_remote_code=True).decode([5]) == "w5"
    assert GenerationConfig.from_pretrained(done.directory).temperature == 0.7
    card = (done.directory / "README.md").read_text()
    assert "trust_remote_code=True" in card
    assert "| kl | 0.25 |" in card
    assert "| removed | 1 | none | none | none |" in card
    assert f"Saved with transformers {transformers.__version__} and torch {torch.__version__}. Where" in card
    facts = ModelCard.load(done.directory / "README.md").data.to_dict()
    assert facts == {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["pruned"]}
    for path in done.directory.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), f"{path.name} tells where it was made"
    assert len({path.stat().st_mode for path in done.directory.iterdir()}) == 1  # as readable as the card


@pytest.mark.usefixtures("in_process")
def test_a_failed_verification_leaves_nothing(
    make_supernet: MakeSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rounded(state: Any, directory: Path, **settings: Any) -> None:
        save_torch_state_dict({name: tensor.bfloat16().float() for name, tensor in state.items()}, directory)

    monkeypatch.setattr(space.formats.checkpoint, "save_torch_state_dict", rounded)
    target = tmp_path / "out" / "pruned"
    with pytest.raises(UserError, match=r"expected differences of at most .* logits of the reloaded checkpoint"):
        export(make_supernet("llama"), Candidate.from_rows(EQUAL["narrow"]), target)
    assert list(target.parent.iterdir()) == []


def test_a_checkpoint_that_does_not_load_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": "two"}')
    reference = Reference(torch.ones(1, 4, dtype=torch.int64), torch.ones(1, 4), torch.zeros(1, 4, 8))
    with pytest.raises(UserError, match="did not load or run"):
        verify_checkpoint(tmp_path, reference, trust_remote_code=False)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("failure", "expected", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), UserError, "Free some space"),
        (PermissionError(errno.EACCES, "Permission denied"), UserError, "can be written to"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
def test_a_failed_write_leaves_nothing(
    make_supernet: MakeSupernet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    expected: type[BaseException],
    message: str | None,
) -> None:
    def fail(state: Any, directory: Path, **settings: Any) -> None:
        (directory / "model.safetensors").write_bytes(b"half")
        raise failure

    monkeypatch.setattr(space.formats.checkpoint, "save_torch_state_dict", fail)
    target = tmp_path / "out" / "pruned"
    with pytest.raises(expected, match=message):
        export(make_supernet("llama"), Candidate.from_rows(EQUAL["narrow"]), target)
    assert list(target.parent.iterdir()) == []


def test_a_taken_directory_is_refused(make_supernet: MakeSupernet, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="new or empty directory"):
        export(make_supernet("llama"), Candidate.from_rows(EQUAL["narrow"]), tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Expected to write"):
        export(make_supernet("llama"), Candidate.from_rows(EQUAL["narrow"]), tmp_path / "file" / "pruned")


@pytest.mark.usefixtures("in_process")
def test_a_directory_that_another_export_takes_in_the_meantime_is_refused(
    make_supernet: MakeSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out" / "pruned"

    def taken(*arguments: Any, **options: Any) -> Any:
        target.mkdir(parents=True)
        (target / "config.json").write_text("theirs")
        return verify_checkpoint(*arguments, **options)

    monkeypatch.setattr("space.formats.hf.export.verify_checkpoint", taken)
    with pytest.raises(UserError, match="new or empty directory"):
        export(make_supernet("llama"), Candidate.from_rows(EQUAL["narrow"]), target)
    assert [path.read_text() for path in target.parent.rglob("*.json")] == ["theirs"]


@pytest.mark.usefixtures("in_process")
def test_an_empty_directory_is_used(make_supernet: MakeSupernet, tmp_path: Path) -> None:
    (tmp_path / "pruned").mkdir()
    done = export(make_supernet("llama"), Candidate.from_rows(EQUAL["narrow"]), tmp_path / "pruned")
    assert (done.directory / "config.json").is_file()


def test_a_model_without_attention_is_refused(make_supernet: MakeSupernet, tmp_path: Path) -> None:
    supernet = make_supernet("llama")
    none = Candidate.from_rows([(0, 0, 48)] * 4)
    with pytest.raises(UserError, match="attention in at least one layer"):
        export(supernet, none, tmp_path / "pruned", model=supernet.model)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("shapes", [EQUAL["narrow"], UNEQUAL["no MLP"]], ids=["equal", "unequal"])
def test_weights_keep_their_dtype(shapes: Any, make_supernet: MakeSupernet, tmp_path: Path) -> None:
    supernet, candidate = make_supernet("qwen3"), Candidate.from_rows(shapes)
    model = supernet.view(candidate, own=True)  # not `.to(bfloat16)`, which would round rotary frequencies too
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    done = export(supernet, candidate, tmp_path / "pruned", model=model)
    assert load(done.directory, trust_remote_code=done.trust_remote_code).dtype == torch.bfloat16
    config = AutoConfig.from_pretrained(done.directory, trust_remote_code=done.trust_remote_code)
    assert config.dtype == torch.bfloat16


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("tied", [False, True])
def test_a_tied_head_is_stored_once(tied: bool, make_supernet: MakeSupernet, tmp_path: Path) -> None:
    supernet = make_supernet("llama" if tied else "qwen2")
    assert supernet.spec.tied_embeddings == tied
    done = export(supernet, Candidate.from_rows(UNEQUAL["no MLP"]), tmp_path / "pruned")
    with safe_open(done.directory / "model.safetensors", framework="pt") as stored:
        assert ("lm_head.weight" in stored.keys()) != tied  # noqa: SIM118  (not a mapping)


@pytest.mark.usefixtures("in_process")
def test_a_reloaded_checkpoint_can_be_saved_again(
    unlike_family: str, make_supernet: MakeSupernet, tmp_path: Path
) -> None:
    supernet = make_supernet(unlike_family)
    candidate = fitting(unlike_family, UNEQUAL["attention in the last layer only"])
    done = export(supernet, candidate, tmp_path / "first")
    model = load(done.directory, trust_remote_code=True)
    model.save_pretrained(tmp_path / "second")
    again = load(tmp_path / "second", trust_remote_code=True)
    tokens = random_tokens(2, 9)
    torch.testing.assert_close(logits_of(again, tokens), logits_of(model, tokens), rtol=0, atol=0)


def test_a_model_computes_in_float32_with_a_layer_at_a_time_in_it(make_supernet: MakeSupernet) -> None:
    design = Candidate.from_rows([(4, 2, 16), (0, 0, 32), (6, 3, 0), DENSE])
    model, tokens = make_supernet("llama", dtype=torch.bfloat16).view(design), random_tokens(2, 12)
    before = {name: (tensor.dtype, tensor.data_ptr()) for name, tensor in model.state_dict().items()}
    wide: list[int] = []
    layers = [*model.model.layers]

    def count(*call: Any) -> None:
        wide.append(sum({p.dtype for p in layer.parameters()} == {torch.float32} for layer in layers))

    layers[-1].mlp.register_forward_hook(count)
    expected = copy.deepcopy(model).float()(tokens, use_cache=False).logits  # before it is counted
    with torch.inference_mode(), in_float32(model):
        assert torch.equal(model(tokens, use_cache=False).logits, expected)
    assert wide[-1] == 1
    assert {name: (tensor.dtype, tensor.data_ptr()) for name, tensor in model.state_dict().items()} == before
