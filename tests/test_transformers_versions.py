"""Exports in the versions of transformers that README promises: same numbers, text and tokens, in all uses."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import script_transformers
import torch
import transformers
from conftest import FAMILY_NAMES, MIXTURES, UNLIKE, fitting, random_tokens, tiny_model
from helpers_formats import VOCAB, answer_here, byte_level, sentencepiece
from helpers_transformers import tree_of
from tokenizers import pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaTokenizer
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from space.formats.checkpoint import Subnet
from space.formats.child import answer_of
from space.formats.deci import check as deci_check
from space.formats.deci.export import export_deci
from space.formats.hf import reload_check
from space.formats.hf.export import export_checkpoint
from space.formats.requirements import TRANSFORMERS
from space.formats.verify import Verification
from space.models.architectures import architecture_of
from space.models.embedded import quiet_transformers
from space.models.modeling import modeling_text
from space.models.modeling_pruned import NOT_STOCK, rope_of_transformers_4
from space.supernet.supernet import Supernet

TOLERANCE = 1e-5  # of logits in float32, absolute
GONE = (0, 0, 0)
DESIGNS = {
    "attention gone first": [(0, 0, 48), (4, 2, 0), GONE, (2, 1, 16)],
    "uniform": [(4, 2, 32), GONE, (4, 2, 32), (4, 2, 32)],
    "attention gone last": [(6, 3, 0), (3, 3, 32), (4, 2, 48), (0, 0, 16)],
    "layers gone at both ends": [GONE, (2, 2, 48), (6, 3, 0), GONE],
}
MAIN = ("attention gone first", "uniform")  # one with code of its own, one of the stock class
# All designs of families that differ in kind, and everything of the main ones where code or tokenizers differ most.
EVERYTHING = ("llama", "gemma3_text", "phi3", "gpt2", "mistral", "qwen2", "qwen3")
LLAMA_3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
LAYER_TYPES = ["sliding_attention", "full_attention"] * 2
PLAIN = ("arcee", "ernie4_5", "olmo2", "cohere", "cohere2")
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e5, **LLAMA_3}},
    "mistral": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}, "sliding_window": 7},
    "qwen2": {
        "rope_parameters": {"rope_type": "linear", "rope_theta": 1e6, "factor": 2.0},
        **{"use_sliding_window": True, "sliding_window": 7, "layer_types": LAYER_TYPES},
    },
    "qwen3": {
        "rope_parameters": {
            **{"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0, "original_max_position_embeddings": 64}
        }
    },
    "smollm3": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}},
    "seed_oss": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e6, "factor": 2.0}},
    "hunyuan_v1_dense": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}},
    "granite": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}},
    "starcoder2": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}, "sliding_window": 7},
    "nemotron": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5, "partial_rotary_factor": 0.5}},
    "phi3": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e5, "partial_rotary_factor": 0.5},
        "sliding_window": 7,
    },
    "gpt2": {},
    "gpt_neox": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5, "partial_rotary_factor": 0.5}},
    **{family: {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}} for family in PLAIN},
    "stablelm": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5, "partial_rotary_factor": 0.34}},
    "glm": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5, "partial_rotary_factor": 0.5}},
    "glm4": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5, "partial_rotary_factor": 0.5}},
    "olmo3": {},
    # which transformers before 5.24 leaves out without attn_implementation="eager"
    **{family: {"attn_logit_softcapping": None} for family in ("gemma2", "vaultgemma")},
    "exaone4": {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e5, **LLAMA_3}},
    "gemma": {"rope_parameters": {"rope_type": "default", "rope_theta": 2e4}},
    "gemma3_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 5e5, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
        }
    },
}
ROTARY: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 16.0},
    "llama3": LLAMA_3,
    "longrope": {
        **{"factor": 4.0, "original_max_position_embeddings": 64},
        **{"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 3.0, 4.0]},
    },
}
TEXT = "The cat's élève: 384400 km.\n\n <|extra|> 你好"


def tokenizer_of(family: str, directory: Path) -> Any:
    """Tokenizers of all kinds; those that transformers 4 would change by itself among them."""
    if family == "llama":
        return byte_level("llama-bpe")  # with BOS
    if family == "mistral":
        sentencepiece().save_pretrained(directory)
        tokenizer = LlamaTokenizer.from_pretrained(directory, add_bos_token=False)
        assert tokenizer("a").input_ids[0] != tokenizer.bos_token_id  # which that class of transformers 4 would add
        return tokenizer
    if family == "gemma3_text":
        return sentencepiece(prepend=False)
    tokenizer = byte_level("qwen2" if family == "qwen2" else "gpt-2")
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|extra|>"]})
    if family == "qwen3":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def rotary(values: dict[str, Any]) -> torch.Tensor:
    """Cosines and sines of all positions and of more, `(2, batch, time, head width)`."""
    return torch.stack(LlamaRotaryEmbedding(LlamaConfig.from_dict(values))(torch.zeros(1), torch.arange(300)[None]))


def rotary_config(name: str) -> dict[str, Any]:
    rope = {"rope_type": name, "rope_theta": 5e4, **ROTARY[name]}
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 256}
    return {"model_type": "llama", **sizes, **rope_of_transformers_4(rope), "rope_parameters": rope}


class Exports:
    """Exports of every family, what each must give, and the names of those of which everything is asked."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.tensors = {"input_ids": random_tokens(3, 20)}
        self.tensors |= {f"rotary.{name}": rotary(rotary_config(name)) for name in ROTARY}
        self.everything: set[str] = set()
        self.classes: dict[str, str] = {}
        self.tokens: dict[str, list[int]] = {}
        self.written: dict[str, list[int]] = {}
        for family in (name for name in FAMILY_NAMES if name not in MIXTURES):
            self._export(family)
        for family in ("llama", "gemma3_text"):
            self._save_again(family)

    def _export(self, family: str) -> None:
        model, spec = tiny_model(family, vocab_size=VOCAB, **FAMILIES.get(family, {}))
        net = Supernet.prepare(
            model, spec, random_tokens(12, 24), self.place / "supernet" / family, dtype=torch.float32
        )
        tokenizer = tokenizer_of(family, self.place / "tokenizer" / family)
        settings = GenerationConfig(eos_token_id=2, pad_token_id=0)
        for design, shapes in DESIGNS.items():
            if design not in MAIN and family not in UNLIKE:
                continue
            name, candidate = f"{family}, {design}", fitting(family, shapes)
            if design in MAIN and family in EVERYTHING:
                self.everything.add(name)
            view = net.view(candidate)
            subnet = Subnet(net.model.config, tokenizer, spec, candidate, settings)
            done = export_checkpoint(view, subnet, self.place / "hf" / name, card={})
            assert done.trust_remote_code == (design != "uniform" or architecture_of(family).heads_fill)
            if family == "llama":
                export_deci("vllm", view, subnet, self.place / "deci" / name, card={})
            self.tensors[f"{name}.logits"] = script_transformers.logits_of(view, self.tensors["input_ids"])
            self.classes[name] = "PrunedForCausalLM" if done.trust_remote_code else type(model).__name__
            self.tokens[name] = tokenizer(TEXT).input_ids
            self.written[name] = view.generate(
                torch.tensor([self.tokens[name]]),
                generation_config=GenerationConfig(
                    **settings.to_diff_dict(), max_new_tokens=script_transformers.NEW_TOKENS, do_sample=False
                ),
            )[0].tolist()

    def _save_again(self, family: str) -> None:
        """An export as this version of transformers saves it when it was loaded."""
        first = self.place / "hf" / f"{family}, attention gone first"
        again = first.with_name(f"{family}, saved again")
        script_transformers.loaded(first).save_pretrained(again)
        for file in first.glob("tokenizer*.json"):
            shutil.copy(file, again)
        self.everything.add(again.name)
        for answers in (self.classes, self.tokens, self.written):
            answers[again.name] = answers[first.name]  # type: ignore[index]
        self.tensors[f"{again.name}.logits"] = self.tensors[f"{first.name}.logits"].clone()

    def names(self, version: str) -> list[str]:
        """Those of every family in the oldest and the newest version, and of families of each kind in between."""
        families = FAMILY_NAMES if version in (TRANSFORMERS[0], TRANSFORMERS[-1]) else {*UNLIKE, *EVERYTHING}
        return sorted(name for name in self.classes if name.split(",")[0] in families)

    def request(self, version: str) -> dict[str, Any]:
        return {
            "exports": {
                str(self.place / "hf" / name): architecture_of(name.split(",")[0]).classes.causal_lm
                for name in self.names(version)
            },
            "everything": sorted(self.everything),
            "deci": [str(path) for path in sorted((self.place / "deci").iterdir())],
            "rotary": {name: rotary_config(name) for name in ROTARY},
            "text": TEXT,
            "reload_check": reload_check.__file__,
            "deci_check": deci_check.__file__,
        }


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exports]:
    with pytest.MonkeyPatch.context() as patch, quiet_transformers():
        passed = Verification(0.0, 0.0, 0.0, 1, 0.0)  # tests/test_formats_hf.py checks the checking
        patch.setattr("space.formats.hf.export.verify_checkpoint", lambda *given, **settings: passed)
        patch.setattr("space.formats.deci.export.answer_of", answer_here)
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield Exports(tmp_path_factory.mktemp("exports"))


@pytest.mark.parametrize("version", TRANSFORMERS)
def test_exports_are_the_same_in_every_version(version: str, exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tree_of(version)))
    script = Path(script_transformers.__file__)
    given = answer_of(script, exports.request(version), exports.tensors, failure=f"transformers {version} failed")
    assert given["version"] == version
    assert max(given["rotary"].values()) < TOLERANCE, given["rotary"]
    # families that are younger than a version have no exports there
    assert sorted([*given["exports"], *given["lacks"]]) == exports.names(version)
    for name, one in given["exports"].items():
        code = ["modeling_pruned.py"] if one["class"] == "PrunedForCausalLM" else []
        assert (one["class"], one["wrong"]) == (exports.classes[name], {}), name
        for kind in ("dynamic", "static"):
            apart, steps = one["caches"][kind]
            assert apart < TOLERANCE, (name, kind)
            assert steps == script_transformers.NEW_TOKENS, (name, kind)
        assert one["logits"] < TOLERANCE, name
        if name not in exports.everything:
            continue
        assert (one["tokens"], one["written"]) == (exports.tokens[name], exports.written[name]), name
        assert one["again"]["files"] == code, name
        if code:
            assert NOT_STOCK in one["refusals"]["stock"], name  # and not stock layers with random weights in the holes
            assert "trust_remote_code=True" in one["refusals"]["untrusted"], name
        else:
            assert one["refusals"] == {}, name
        assert one["beams agree"], name
        for what in ("mapped", "checkpointing"):
            assert one[what] < TOLERANCE, (name, what)
        assert one["again"]["logits"] < TOLERANCE, name
        assert one["adapted"]["logits"] < TOLERANCE < one["adapted"]["moved"], name
    for name, one in given["deci"].items():
        assert one["logits_difference"] < TOLERANCE, name
        assert one["tokens"] == exports.tokens[name], name
        if version.startswith("4."):
            assert one["rope"] == {"rope_theta": 1e5, "rope_scaling": {"rope_type": "llama3", **LLAMA_3}}, name


def test_older_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers, "__version__", "4.56.2")
    with pytest.raises(ImportError, match=r"transformers 4\.57 or newer for a pruned model, got 4\.56\.2"):
        exec(modeling_text("llama"), {"__name__": "modeling_pruned"})
