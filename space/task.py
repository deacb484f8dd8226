"""What a model is for: rows of data that say how it is loaded, asked, timed and exported; free of torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from space.errors import UserError


@dataclass(frozen=True)
class Task:
    """One use of a model.

    Attributes:
        title: What such a model is, for people.
        loader: transformers' automatic class that loads it.
        stock: Which of a family's stock classes a model is, a field of `space.models.layout.StockClasses`.
        pruned: The class of the modelling file that a subnet is.
        output: What a forward pass is asked for, and what an export must give again.
        pipeline: The hub's name of the task.
        head: What there is behind the stack of layers, for people.
        reads: What is put in: `text`, or `images`.
        pools: How one vector is made of the last hidden states, where nothing beside the model says it: their `mean`,
            or the first one, `cls`.
        masks: Whether some words of the text are hidden from it: it is asked for these alone, by all of its tokens.
        writes: Whether it writes text: it has an LM head and a KV cache, and `generate()`.
        settings: The group of settings that is made for it, as one writes it.
        search_quality: What the search asks of subnets, names of rows of `evaluators.metrics`, the divergence from the
            dense model first.
        heldout_quality: The same on held-out text.
        alike: Below this, divergences are about equally good.
        judged: The one of these by which points are offered and recommended.
        step_windows: Of a step of healing, where none are set: a few windows alone say little of embeddings.
        healing_rate: The learning rate of healing, where none is set.
        polish_windows: Of a forward pass of a pick's polish, where none are set.
        polish_rate: The learning rate of a pick's polish, where none is set.
        refit_windows: Of the corrective refit before it, at most, where none are set.
        scenarios: Of `latency.scenario`.
        engines: Of `latency.engine`.
        formats: Of exports; None for all.
        companions: Files beside a checkpoint, as patterns, that go into its exports as they are.
    """

    title: str
    loader: str
    stock: str
    pruned: str
    output: str
    pipeline: str
    head: str
    writes: bool
    settings: str
    search_quality: tuple[str, ...]
    heldout_quality: tuple[str, ...]
    alike: float
    judged: str
    step_windows: int
    scenarios: tuple[str, ...]
    engines: tuple[str, ...]
    formats: tuple[str, ...] | None = None
    companions: tuple[str, ...] = ()
    reads: str = "text"
    pools: str = "mean"
    masks: bool = False
    healing_rate: float = 3e-4
    polish_windows: int = 2
    polish_rate: float = 2e-4
    refit_windows: int = 256

    @property
    def classifies(self) -> bool:
        """Whether it chooses a class of the model's own: of a text or an image, or of each token."""
        return self.stock in ("classifier", "token_classifier")


CAUSAL_LM = "causal_lm"
STRETCH = 7  # tokens of text, of which a task that masks hides one: about BERT's 15 % (Devlin et al. 2019)
_EMBEDDINGS = Task(
    title="a sentence embedder",
    loader="AutoModel",
    stock="model",
    pruned="PrunedModel",
    output="last_hidden_state",
    pipeline="sentence-similarity",
    head="none: it embeds text",
    writes=False,
    settings="model=embedder",
    search_quality=("cosine_distance",),
    heldout_quality=("heldout_cosine_distance", "heldout_rank_correlation"),
    alike=0.01,
    judged="heldout_cosine_distance",
    step_windows=16,
    healing_rate=5e-4,
    polish_windows=16,
    polish_rate=5e-4,
    refit_windows=1024,  # of 64 tokens each
    scenarios=("prefill",),
    engines=("torch",),
    formats=("hf", "hf_uniform"),
    companions=(
        *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
        *("[0-9]_*/config.json",),
    ),
)
_TEXT_CLASSIFICATION = Task(
    title="a text classifier",
    loader="AutoModelForSequenceClassification",
    stock="classifier",
    pruned="PrunedForSequenceClassification",
    output="logits",
    pipeline="text-classification",
    head="a classifier, carried whole",
    writes=False,
    settings="model=classifier",
    search_quality=("class_kl",),
    heldout_quality=("heldout_class_kl", "heldout_agreement"),
    alike=0.01,  # nats
    judged="heldout_class_kl",
    step_windows=16,
    scenarios=("prefill",),
    engines=("torch",),
    formats=("hf", "hf_uniform"),
)
TASKS: dict[str, Task] = {
    CAUSAL_LM: Task(
        title="a causal language model",
        loader="AutoModelForCausalLM",
        stock="causal_lm",
        pruned="PrunedForCausalLM",
        output="logits",
        pipeline="text-generation",
        head="an LM head",
        writes=True,
        settings="model=default",
        search_quality=("kl", "nll"),
        heldout_quality=("heldout_kl", "heldout_ppl"),
        alike=0.1,  # nats a token
        judged="heldout_ppl",
        step_windows=1,
        scenarios=("prefill", "decode", "serving"),
        engines=("torch", "llamacpp", "vllm"),
    ),
    "embeddings": _EMBEDDINGS,
    "text_classification": _TEXT_CLASSIFICATION,
    "token_classification": replace(
        _TEXT_CLASSIFICATION,
        title="a token classifier",
        loader="AutoModelForTokenClassification",
        stock="token_classifier",
        pruned="PrunedForTokenClassification",
        pipeline="token-classification",
        settings="model=token_classifier",
    ),
    "masked_lm": replace(
        _TEXT_CLASSIFICATION,
        title="a masked language model",
        loader="AutoModelForMaskedLM",
        stock="masked_lm",
        pruned="PrunedForMaskedLM",
        pipeline="fill-mask",
        head="a masked language model's, carried whole",
        settings="model=masked_lm",
        masks=True,
    ),
    "image_classification": replace(
        _TEXT_CLASSIFICATION,
        title="an image classifier",
        loader="AutoModelForImageClassification",
        pruned="PrunedForImageClassification",
        pipeline="image-classification",
        settings="model=image_classifier",
        companions=("preprocessor_config.json",),
        reads="images",
    ),
    "image_features": replace(
        _EMBEDDINGS,
        title="a model of image features",
        pipeline="image-feature-extraction",
        head="none: it gives features of images",
        settings="model=image_features",
        companions=("preprocessor_config.json",),
        reads="images",
        pools="cls",
        refit_windows=256,
    ),
}


def require_task(name: str) -> Task:
    """The row of this name.

    Raises:
        UserError: There is none.
    """
    if name not in TASKS:
        raise UserError(f"model.task: expected one of {', '.join(TASKS)}, got {name!r}.")
    return TASKS[name]
