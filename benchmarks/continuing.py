"""What a fresh process with some version of transformers continues prompts with; `benchmarks.everywhere` asks it.

It is run by its path where this project cannot be imported.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig

TOP = 10


def answer(request: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    """The greedy continuation of each prompt, with the log-probabilities of the likeliest tokens of each step."""
    torch.set_num_threads(request["threads"])
    model = AutoModelForCausalLM.from_pretrained(request["directory"], trust_remote_code=True, dtype=torch.float32)
    model.generation_config = GenerationConfig()  # the checkpoint's own would end at its end of text
    settings = GenerationConfig(
        max_new_tokens=request["new_tokens"],
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    runs = []
    for prompt in request["prompts"]:
        tokens = torch.tensor([prompt])
        with torch.inference_mode():
            found = model.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=settings)
        steps = []
        for token, logits in zip(found.sequences[0, len(prompt) :].tolist(), found.logits, strict=True):
            values, ids = logits[0].float().log_softmax(-1).topk(TOP)
            steps.append({"token": token, "top": [*zip(ids.tolist(), values.tolist(), strict=True)]})
        runs.append(steps)
    return {"version": transformers.__version__, "runs": runs}
