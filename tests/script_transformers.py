"""What a fresh process with some version of transformers does with exports; `test_transformers_versions.py` asks it.

It is run by its path where this project cannot be imported.
"""

from __future__ import annotations

import runpy
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, pipeline
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

NEW_TOKENS = 6
HERE = Path("with a blank")  # in the directory that the process has to itself


def loaded(directory: Path | str, **settings: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True, **settings).eval()


def logits_of(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(tokens, use_cache=False).logits
    return logits


def difference(model: Any, tokens: torch.Tensor, expected: torch.Tensor) -> float:
    return float((logits_of(model, tokens) - expected).abs().max())


def beams_agree(model: Any, tokens: torch.Tensor, mask: torch.Tensor) -> bool:
    """Whether beam search finds the same with the cache, whose rows it moves, as without."""
    settings = {"num_beams": 3, "max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
    one, other = (
        model.generate(tokens, attention_mask=mask, generation_config=GenerationConfig(use_cache=cached, **settings))
        for cached in (True, False)
    )
    return torch.equal(one, other)


def saved_again(model: Any, name: str, tokens: torch.Tensor, expected: torch.Tensor) -> dict[str, Any]:
    """The model as it saves itself, code included, in a directory that is then moved."""
    first, last = HERE / name, HERE / f"{name} moved-1.5"
    model.save_pretrained(first)
    first.rename(last)
    return {
        "files": sorted(path.name for path in last.glob("*.py")),
        "logits": difference(loaded(last), tokens, expected),
    }


def checkpointing_difference(model: Any, tokens: torch.Tensor) -> float:
    """Largest difference of gradients with and without gradient checkpointing; not a number where one is missing."""
    gradients = []
    model.train()
    for enabled in (False, True):
        if enabled:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    model.eval()
    if any(gradient is None for gradient in gradients[0]):
        return float("nan")
    return max(float((one - other).abs().max()) for one, other in zip(*gradients, strict=True))


def adapted_difference(directory: Path, name: str, tokens: torch.Tensor) -> dict[str, Any]:
    """A step with LoRA on all projections; what its adapter gives on top of the checkpoint when it is loaded again."""
    model = get_peft_model(loaded(directory), LoraConfig(r=2, target_modules="all-linear"))
    before = logits_of(model, tokens)
    model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter in trained:
            parameter -= 10 * parameter.grad if parameter.grad is not None else float("nan")
    after = logits_of(model, tokens)
    model.save_pretrained(HERE / f"{name} adapter")
    again = PeftModel.from_pretrained(loaded(directory), HERE / f"{name} adapter").eval()
    return {"moved": float((after - before).abs().max()), "logits": difference(again, tokens, after)}


def refusals(directory: Path, stock: str) -> dict[str, str]:
    """What is said where a checkpoint is loaded without its code."""
    said = {}
    for name, load in {
        "stock": getattr(transformers, stock).from_pretrained,
        "untrusted": partial(AutoModelForCausalLM.from_pretrained, trust_remote_code=False),
    }.items():
        try:
            load(directory)
        except (KeyError, ValueError) as error:
            said[name] = str(error)
    return said


def answer_of(
    directory: Path, stock: str, tensors: dict[str, torch.Tensor], check: dict[str, Any], text: str | None
) -> dict[str, Any]:
    """What an export computes and, with a `text` to read, everything else that is asked of one."""
    name, tokens = directory.name, tensors["input_ids"]
    expected = tensors[f"{name}.logits"]
    model, loading = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True, output_loading_info=True)
    model.eval()
    mask = torch.ones_like(tokens)
    mask[1, :2] = mask[2, :3] = 0  # padded on the left
    padded = tokens.masked_fill(mask == 0, 0)
    computed = {
        "class": type(model).__name__,
        "wrong": {kind: sorted(map(str, keys)) for kind, keys in loading.items() if keys},
        "logits": difference(model, tokens, expected),
        "caches": check["cache_differences"](model, padded, mask, NEW_TOKENS),
    }
    if text is None:
        return computed
    writer = pipeline("text-generation", model=str(directory), trust_remote_code=True, device="cpu")
    return computed | {
        "refusals": refusals(directory, stock),
        "beams agree": beams_agree(model, padded, mask),
        "tokens": AutoTokenizer.from_pretrained(directory, trust_remote_code=True)(text)["input_ids"],
        "written": writer(text, max_new_tokens=NEW_TOKENS, do_sample=False, return_tensors=True)[0][
            "generated_token_ids"
        ],
        "again": saved_again(model, name, tokens, expected),
        "mapped": difference(loaded(directory, device_map="auto"), tokens, expected),
        "checkpointing": checkpointing_difference(model, tokens),
        "adapted": adapted_difference(directory, name, tokens),
    }


def deci_answer(directory: Path, tensors: dict[str, torch.Tensor], check: dict[str, Any], text: str) -> dict[str, Any]:
    """What is read of a checkpoint in the `block_configs` schema, and what a reader of it computes."""
    config = AutoConfig.from_pretrained(directory, trust_remote_code=True)
    asked = {"inputs": tensors["input_ids"], "expected": tensors[f"{directory.name}.logits"]}
    old = {name: getattr(config, name, None) for name in ("rope_theta", "rope_scaling")}
    return {
        **check["answer"]({"directory": str(directory), "rounded": False}, asked),
        "rope": old if transformers.__version__.startswith("4.") else None,
        "tokens": AutoTokenizer.from_pretrained(directory, trust_remote_code=True)(text)["input_ids"],
    }


def answer(request: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Loads exports, and compares.

    Args:
        request: Directories of `exports`, with the family's stock class, and the names of those of which `everything`
            is asked; directories of `deci` checkpoints, `text`, a LlamaConfig for each of the `rotary` embeddings, and
            the files `reload_check` and `deci_check`.
        tensors: `input_ids`, what each directory `NAME.logits` gives for them, and `rotary.NAME`, of positions.
    """
    HERE.mkdir()
    check, deci = (runpy.run_path(request[name]) for name in ("reload_check", "deci_check"))
    rotary = {}
    for name, values in request["rotary"].items():
        expected = tensors[f"rotary.{name}"]
        embedding = LlamaRotaryEmbedding(LlamaConfig.from_dict(values))
        given = torch.stack(embedding(torch.zeros(1), torch.arange(expected.shape[-2])[None]))
        rotary[name] = float((given - expected).abs().max())
    return {
        "version": transformers.__version__,
        "rotary": rotary,
        "exports": {
            name: answer_of(place, stock, tensors, check, request["text"] if name in request["everything"] else None)
            for name, place, stock in (
                (Path(place).name, Path(place), stock) for place, stock in request["exports"].items()
            )
            if hasattr(transformers, stock)
        },
        "lacks": [Path(place).name for place, stock in request["exports"].items() if not hasattr(transformers, stock)],
        "deci": {
            Path(place).name: deci_answer(Path(place), tensors, deci, request["text"]) for place in request["deci"]
        },
    }
