"""What fresh processes do with an export that a person trains on: one trains and saves, another one loads.

`test_finetuning.py` has it run by its path where this project cannot be imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

LOGITS = "logits.safetensors"


def loaded(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True).eval()


def logits_of(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model.eval()(input_ids=tokens, use_cache=False).logits
    return logits.clone()


def trained(model: Any, tokenizer: Any, tokens: torch.Tensor, place: Path) -> Any:
    """A Trainer that has made three steps."""
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    settings: Any = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "save_strategy": "no", "seed": 0}
    arguments = TrainingArguments(str(place / "trainer"), max_steps=3, learning_rate=0.05, **settings)
    trainer = Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    return trainer


def train(export: Path, place: Path, tokens: torch.Tensor) -> dict[str, float]:
    """Trains an export in three ways, and saves each with the logits that it has then."""
    tokenizer = AutoTokenizer.from_pretrained(export, trust_remote_code=True)
    tokenizer.pad_token = tokenizer.eos_token
    before, after = logits_of(loaded(export), tokens), {}

    whole = trained(loaded(export), tokenizer, tokens, place)
    whole.save_model(place / "whole")
    after["whole"] = logits_of(whole.model, tokens)

    lora = get_peft_model(loaded(export), LoraConfig(r=2, target_modules="all-linear"))
    trained(lora, tokenizer, tokens, place).save_model(place / "adapter")
    after["adapter"] = logits_of(lora, tokens)

    merged = lora.merge_and_unload()
    merged.save_pretrained(place / "merged")
    after["merged"] = logits_of(merged, tokens)
    save_file(after, place / LOGITS)
    return {name: float((logits - before).abs().max()) for name, logits in after.items()}


def load(export: Path, place: Path, tokens: torch.Tensor) -> dict[str, Any]:
    """How far each is from what it was when it was saved."""
    models = {
        "whole": loaded(place / "whole"),
        "adapter": PeftModel.from_pretrained(loaded(export), place / "adapter"),
        "merged": loaded(place / "merged"),
    }
    expected = load_file(place / LOGITS)
    tokenizer = AutoTokenizer.from_pretrained(place / "whole", trust_remote_code=True)
    return {
        **{name: float((logits_of(model, tokens) - expected[name]).abs().max()) for name, model in models.items()},
        "classes": sorted({type(models[name]).__name__ for name in ("whole", "merged")}),
        "tokens": tokenizer("the cat")["input_ids"],
    }


def answer(request: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Does one of both jobs.

    Args:
        request: The `job`, the directory of the `export`, and the `place` of what is trained.
        tensors: `input_ids`, `(batch, time)`.
    """
    job = {"train": train, "load": load}[request["job"]]
    return job(Path(request["export"]), Path(request["place"]), tensors["input_ids"])
