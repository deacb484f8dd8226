"""Tiny random models of every family, with norms and biases randomised so that a mistake shows."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedTokenizerFast, ViTImageProcessorPil

from space.candidate import Candidate
from space.models.architectures import ARCHITECTURES, model_type_of
from space.models.embedded import quiet_transformers
from space.models.facts import read_spec
from space.models.names import EMBEDDINGS, NORMS
from space.models.stack import loader_of
from space.spec import ModelSpec
from space.supernet.placement import Placement
from space.supernet.store import is_prepared
from space.supernet.supernet import Supernet
from space.task import CAUSAL_LM, TASKS

pytest_plugins = ("helpers_commands", "helpers_loading")  # runs and checkpoints that several files of tests look at
torch.set_num_threads(1)
# The same examples every time, and no clock: a busy machine fails no test.
settings.register_profile(
    "steady",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],  # most settings contradict each other
)
settings.load_profile("steady")


def pytest_collection_finish() -> None:
    """What is there for good is never looked through again: to do so takes half a second, after each training."""
    gc.freeze()


VOCAB = 97
MLP_UNITS = 48  # channels, or experts
_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 36,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SLIDING = {
    "sliding_window": 7,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
}
# Of sizes that products of all experts at once are made for, and of plain MLPs, where there are such.
_FEW_EXPERTS = {
    **{"hidden_size": 40, "head_dim": 8, "moe_intermediate_size": 8, "intermediate_size": 56, "num_experts_per_tok": 3}
}
# What is special in the configuration of a family's model.
_SPECIAL: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    "mistral": {"sliding_window": None, "head_dim": 6},
    "qwen3": {"head_dim": 8},
    "smollm3": {"no_rope_layers": [1, 0, 1, 0]},
    "seed_oss": {"head_dim": 8},
    "hunyuan_v1_dense": {"head_dim": 8, "attention_bias": True},
    "granite": {
        "head_dim": 8,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.6,
        "attention_multiplier": 0.3,
        "logits_scaling": 2.5,
    },
    "exaone4": {"head_dim": 8, **_SLIDING},
    "starcoder2": {"tie_word_embeddings": True},
    "nemotron": {"head_dim": 8},
    "phi3": {"head_dim": 8},
    "stablelm": {"use_qkv_bias": True},
    "ernie4_5": {"head_dim": 8, "use_bias": True},
    "glm": {"head_dim": 8},
    "glm4": {"head_dim": 8, "attention_bias": True},
    "olmo3": _SLIDING,
    "cohere": {"logit_scale": 0.4},
    "cohere2": {"logit_scale": 0.4, **_SLIDING},
    "gemma": {"head_dim": 8},
    "gemma2": {
        "head_dim": 10,
        "query_pre_attn_scalar": 10,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 4.0,
        **_SLIDING,
    },
    "gemma3_text": {"head_dim": 10, "query_pre_attn_scalar": 10, **_SLIDING},
    "vaultgemma": {
        **{"head_dim": 10, "query_pre_attn_scalar": 10, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0},
        **_SLIDING,
    },
    "ernie": {"use_task_id": True},
    "modernbert": {
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
        **dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), True),
        "local_attention": 6,
    },
    # of sizes that products of all experts at once are made for
    "mixtral": {"hidden_size": 40, "head_dim": 8, "intermediate_size": 8},
    "qwen3_moe": {**_FEW_EXPERTS, "mlp_only_layers": [2]},
    "olmoe": {"hidden_size": 48, "intermediate_size": 8, "num_experts_per_tok": 4, "norm_topk_prob": True},
    "qwen2_moe": {
        **{"hidden_size": 48, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 24},
        "num_experts_per_tok": 3,
    },
    "gpt_oss": {
        **{"hidden_size": 40, "head_dim": 8, "intermediate_size": 8, "num_experts_per_tok": 3, **_SLIDING},
        "rope_parameters": {
            **{"rope_type": "yarn", "rope_theta": 1e5, "factor": 4.0, "original_max_position_embeddings": 64}
        },
    },
    "glm4_moe": {**_FEW_EXPERTS, "attention_bias": True, "routed_scaling_factor": 1.5},
    "glm4_moe:normed": {**_FEW_EXPERTS, "routed_scaling_factor": 1.5},
    "dots1": {**_FEW_EXPERTS, **_SLIDING, "n_shared_experts": 2, "first_k_dense_replace": 1, "norm_topk_prob": True},
    "ernie4_5_moe": {**_FEW_EXPERTS, "moe_k": 3, "moe_num_shared_experts": 1, "use_bias": True},
    "exaone_moe": {**_FEW_EXPERTS, **_SLIDING, "mlp_layer_types": ["dense", "sparse", "dense", "sparse"]},
    "hy_v3": _FEW_EXPERTS,
    "flex_olmo": {"hidden_size": 48, "intermediate_size": 8, "num_experts_per_tok": 4},
    "granitemoe": {
        **{"hidden_size": 40, "head_dim": 8, "intermediate_size": 8, "num_experts_per_tok": 3},
        **{"embedding_multiplier": 3.0, "residual_multiplier": 0.6, "attention_multiplier": 0.3, "logits_scaling": 2.5},
    },
    "minimax_m2": {"hidden_size": 40, "head_dim": 8, "intermediate_size": 8, "num_experts_per_tok": 3},
    "solar_open": {**_FEW_EXPERTS, "routed_scaling_factor": 1.5},
    "cwm": {"head_dim": 8, **_SLIDING},
    "camembert": {"type_vocab_size": 1},
    "eurobert": dict.fromkeys(("attention_bias", "mlp_bias", "tie_word_embeddings"), True) | {"mask_token_id": 3},
    "dinov2": {"hidden_size": 16, "head_dim": 4},  # of which MLP channels are a multiple
    "dinov2_with_registers": {"hidden_size": 16, "head_dim": 4, "num_register_tokens": 3},
    "roberta": {"type_vocab_size": 1},
    "xlm-roberta": {"type_vocab_size": 1},
}
# Of a family that reads images: of 17 tokens, or 18.
_IMAGES = {"image_size": 8, "patch_size": 2, "num_channels": 1, "num_labels": 4}
_OF_TEXT = ("vocab_size", "max_position_embeddings", "pad_token_id", "bos_token_id", "eos_token_id")
# By what they are for: models that write, encoders, and models that read images.
FAMILY_NAMES = tuple(name for name, row in ARCHITECTURES.items() if CAUSAL_LM in row.tasks)
ENCODERS = tuple(name for name, row in ARCHITECTURES.items() if "embeddings" in row.tasks)
VISION = tuple(name for name, row in ARCHITECTURES.items() if "image_classification" in row.tasks)
MIXTURES = tuple(name for name, row in ARCHITECTURES.items() if row.mlp.routed)
UNLIKE = ("llama", "olmo2", "gemma3_text", "granite", "phi3", "gpt2", "gpt_neox", "cohere", "mixtral")  # a kind each


def _settle(config: Any) -> None:
    """Takes out of a configuration what is drawn at random, and what is too wide for small heads."""
    for name, value in vars(config).items():
        if isinstance(value, float) and "drop" in name:
            setattr(config, name, 0.0)
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        config.sliding_window = 7
    rope = getattr(config, "rope_parameters", None) or {}
    if "partial_rotary_factor" in rope and int(rope["partial_rotary_factor"] * 6) % 2:
        rope["partial_rotary_factor"] = 0.34  # two values of six
    if getattr(config, "rotary_dim", None):
        config.rotary_dim = 4


def tiny_model(family: str, task: str | None = None, **changes: Any) -> tuple[nn.Module, ModelSpec]:
    """A random model of a family for a task, its first one unless told, all parameters drawn anew, and its spec.

    Of the changes of its configuration, `intermediate_size` is the number of an MLP's units, whatever that is called.
    """
    sizes, units = ARCHITECTURES[family].sizes, changes.pop("intermediate_size", MLP_UNITS)
    values = _SIZES | _SPECIAL.get(family, {}) | changes
    values |= sizes.stock({sizes.mlp_channels: units}, values["hidden_size"]) or {}
    groups = values.pop("num_key_value_heads")
    if isinstance(sizes.kv_heads, str):
        values[sizes.kv_heads] = groups
    if family in VISION:
        values = _IMAGES | {name: value for name, value in values.items() if name not in _OF_TEXT}
    values |= {key: value for key, value, *_ in ARCHITECTURES[family].when}
    if "head_dim" in CONFIG_MAPPING[model_type_of(family)].__annotations__:
        values.setdefault("head_dim", values["hidden_size"] // values["num_attention_heads"])
    use = TASKS[task or ARCHITECTURES[family].tasks[0]]
    stock = ARCHITECTURES[family].classes.of(use)
    config = AutoConfig.for_model(model_type_of(family), **values, architectures=[stock])
    _settle(config)
    model: Any = loader_of(task or ARCHITECTURES[family].tasks[0]).from_config(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.rpartition(".")[0].rpartition(".")[2] in NORMS:
            parameter.add_(0.3 * noise)
        elif name.endswith("bias"):
            parameter.copy_(0.5 * noise)
        elif EMBEDDINGS.isdisjoint(name.split(".")):
            parameter.copy_(noise * 1.2 / parameter.shape[-1] ** 0.5)
        else:
            parameter.copy_(noise * 0.6)
    for name, buffer in model.named_buffers():
        if name.endswith("bias"):  # which no gradient reaches
            buffer.copy_(0.2 * torch.randn(buffer.shape, generator=generator))
    spec = read_spec(model, f"tiny-{family}", "0", family)
    return model, replace(spec, mask_token=VOCAB - 1 if use.masks else None)


@cache
def _tiny_spec(family: str) -> ModelSpec:
    return tiny_model(family)[1]


def fitting(family: str, design: Candidate | Iterable[Sequence[int]]) -> Candidate:
    """A candidate, or one of these rows; without groups in its family, query heads have keys and values each.

    Query heads that are to have more groups than a model has are in as many as it has them in. Plain MLPs among
    mixtures are whole where anything is to be left of them.
    """
    sizes, spec = ARCHITECTURES[family].sizes, _tiny_spec(family)
    rows = [shape.row for shape in design.layers] if isinstance(design, Candidate) else [*design]
    grouped = [row if sizes.grouped else (row[0], sizes.groups(row[0]), row[2]) for row in rows]
    grouped = [
        (row[0], row[0] // spec.queries_per_group, *row[2:]) if row[1] > spec.kv_heads else row for row in grouped
    ]
    for layer in spec.plain_mlps:
        heads, groups, channels, *_ = grouped[layer]
        grouped[layer] = (heads, groups, channels and spec.plain_channels)
    return Candidate.from_rows(grouped)


def random_tokens(windows: int, length: int, seed: int = 0) -> torch.Tensor:
    """Token ids without special ones, shape (windows, length)."""
    return torch.randint(3, VOCAB, (windows, length), generator=torch.Generator().manual_seed(seed))


def inputs_of(family: str, windows: int, seed: int = 0) -> torch.Tensor:
    """What a tiny model of a family reads: texts, shape (windows, 24), or images."""
    return random_images(windows, seed) if family in VISION else random_tokens(windows, 24, seed)


def save_dense(family: str, directory: Path, **changes: Any) -> Path:
    """A tiny model of a family as a checkpoint, with a tokenizer or an image processor; changes as of `tiny_model`."""
    reader: Any = ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.25])
    if family not in VISION:
        words = Tokenizer(WordLevel({f"w{number}": number for number in range(VOCAB)}, unk_token="w0"))
        reader = PreTrainedTokenizerFast(tokenizer_object=words)
    with quiet_transformers():
        for part in (tiny_model(family, **changes)[0], reader):
            part.save_pretrained(directory)
    return directory


def each_kind(cases: Iterable[str], families: Iterable[str] = FAMILY_NAMES) -> list[Any]:
    """Pairs of a family and a case: all cases in families of each kind, the last one, the fullest, in the others."""
    *some, last = cases
    pairs = [(family, case) for family in families for case in [*(some if family in UNLIKE else ()), last]]
    return [pytest.param(*pair, id="-".join(pair)) for pair in pairs]


def random_images(count: int, seed: int = 0) -> torch.Tensor:
    """Images as tiny models read them, shape (count, 1, 8, 8)."""
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=FAMILY_NAMES)
def family(request: pytest.FixtureRequest) -> str:
    """Each supported family in turn."""
    return str(request.param)


@pytest.fixture(params=UNLIKE)
def unlike_family(request: pytest.FixtureRequest) -> str:
    """Families of each kind in turn: plain, normed queries, norms behind blocks, scaled, fused, parallel and so on."""
    return str(request.param)


@pytest.fixture(scope="session")
def session_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of this session, one for all of its workers."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture
def make_supernet(tmp_path: Path, session_place: Path) -> Callable[..., Supernet]:
    """A supernet of a family, in float32 unless told otherwise, prepared once in a session and loaded from then on."""

    def make(
        family: str,
        dtype: torch.dtype = torch.float32,
        refit_bytes: int = 3 << 28,
        place: Placement | None = None,
        task: str | None = None,
        **settings: Any,
    ) -> Supernet:
        named = ["supernet", family, *([task] if task else []), str(dtype), *map(str, sorted(settings.items()))]
        prepared = session_place / "_".join(named)
        if not is_prepared(prepared):
            model, spec = tiny_model(family, task)
            Supernet.prepare(model, spec, inputs_of(family, 12), prepared, dtype=dtype, **settings)
        model, spec = tiny_model(family, task)
        supernet = Supernet.load(model, spec, prepared, dtype=dtype, place=place, refit_bytes=refit_bytes)
        supernet.link_to(tmp_path / f"supernet-{family}")
        return supernet

    return make


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, which is not there yet."""
    monkeypatch.setenv("PARETOPRUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def modules_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """transformers copies modelling files here, not into the user's cache nor where other tests have had it do so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [place for place in sys.path if not (Path(place) / "transformers_modules").is_dir()])
        for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
            patch.delitem(sys.modules, name)
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium by Playwright; what wants it is skipped, with the reason, where one of them is not to be had."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield chromium
        chromium.close()
