"""Random models of the shapes that people serve, as supernets whose levels are plain slices, and designs of them.

Times do not depend on values, so nothing is downloaded and nothing calibrated: levels are those of `Supernet.sliced`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from benchmarks.device.machine import Machine
from conf.compose import composed
from conf.settings import session_settings
from evaluators.latency.workload import Workload
from space.candidate import Candidate
from space.models.facts import read_spec
from space.size import removed_params
from space.space import SearchSpace
from space.spec import ModelSpec
from space.supernet.placement import Placement
from space.supernet.store import StoredLayers
from space.supernet.supernet import Supernet

Scenario = Literal["prefill", "decode"]

_LLAMA: dict[str, Any] = {"model_type": "llama", "rms_norm_eps": 1e-5}
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "smollm2-135m": _LLAMA
    | {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64}
    | {"intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True},
    "tinyllama-1.1b": _LLAMA
    | {"hidden_size": 2048, "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4}
    | {"head_dim": 64, "intermediate_size": 5632, "vocab_size": 32000, "tie_word_embeddings": False},
    "llama-3.2-1b": _LLAMA
    | {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8}
    | {"head_dim": 64, "intermediate_size": 8192, "vocab_size": 128256, "tie_word_embeddings": True},
    "llama-3-8b": _LLAMA
    | {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
    | {"head_dim": 128, "intermediate_size": 14336, "vocab_size": 128256, "tie_word_embeddings": False},
    "qwen2.5-7b": {"model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28}
    | {"num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False},
}
_DRY_SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "head_dim": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 256,
    "vocab_size": 300,
}
_LENGTHS = {"prefill": 512, "decode": 1024}
_DRY_LENGTH = 16
_CACHE_BYTES = 24 << 30  # of narrower blocks: all that a check asks about


def random_model(name: str, machine: Machine, dtype: torch.dtype) -> Any:
    """A random model of a shape on the machine's device; of tiny sizes in a dry run."""
    values = {**SHAPES[name], "max_position_embeddings": 4096, **(_DRY_SIZES if machine.dry else {})}
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    with torch.device(machine.device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")


def write_checkpoint(name: str, machine: Machine, directory: Path) -> None:
    """A random checkpoint of a shape in bfloat16, with a tokenizer of bytes, for the project's own commands."""
    random_model(name, machine, torch.bfloat16).save_pretrained(directory)
    vocab = {char: index for index, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="!").save_pretrained(directory)


@torch.no_grad()
def sliced_supernet(name: str, machine: Machine) -> Supernet:
    """A random model of a shape as a supernet whose levels are plain slices."""
    model = random_model(name, machine, machine.dtype).eval().requires_grad_(False)
    generator = torch.Generator(machine.device).manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.normal_(0, 0.02, generator=generator)
    spec = read_spec(model, name, "random", model.config.model_type)
    nothing = StoredLayers(Path(), spec, (0.0,) * spec.layers)  # no file is read, as no level is a refit
    return Supernet(model, nothing, Placement(machine.device), _CACHE_BYTES).sliced()


def default_space(spec: ModelSpec) -> SearchSpace:
    """The space that a search with default settings has."""
    return session_settings(composed()).space(spec)


def designs_of_size(space: SearchSpace, fraction: float = 0.5) -> dict[str, Candidate]:
    """The designs of each kind that come nearest to so much of the decoder layers' parameters removed."""
    kinds = {
        "uniform": space.uniform_ladder(),
        "depth": space.depth_ladder([*range(space.spec.layers)][::-1]),
        "mixed": space.samples(64, seed=1),
    }
    return {
        kind: min(designs, key=lambda design: abs(removed_params(space.spec, design) - fraction))
        for kind, designs in kinds.items()
        if designs
    }


def workload(machine: Machine, scenario: Scenario, **settings: Any) -> Workload:
    """What the checks time in a scenario; nothing of earlier runs is used."""
    length = _DRY_LENGTH if machine.dry else _LENGTHS[scenario]
    return Workload(scenario, length=length, cache=False, **settings)
