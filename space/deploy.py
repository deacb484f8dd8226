"""What the place where a model will be served can run, as limits of the search space; free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from space.errors import UserError
from space.spec import ModelSpec


@dataclass(frozen=True)
class Deployment:
    """What can be run in one place.

    Attributes:
        same_layers: Whether all layers must have one shape, so that a removed block is a removed layer.
        attention_widths: Whether layers may keep fewer query heads.
        merged_groups: Whether layers may differ in their KV groups.
        mlp_multiple: What counts of MLP channels must be multiples of.
        families: Of models that it runs pruned; None for all.
        tied: Those of them whose head must be the embedding.
        experts: Whether it runs pruned mixtures of experts.
    """

    same_layers: bool = False
    attention_widths: bool = True
    merged_groups: bool = True
    mlp_multiple: int = 1
    families: tuple[str, ...] | None = None
    tied: tuple[str, ...] = ()
    experts: bool = False


_LLAMAS = ("llama", "mistral")
DEPLOYMENTS = {
    "any": Deployment(experts=True),
    # A stock config.json, which every runtime reads.
    "uniform": Deployment(same_layers=True, experts=True),
    # GGUF with shapes by layer (architectures deci and openelm); blocks of Q8_0 are 32 values.
    "llamacpp": Deployment(mlp_multiple=32, families=(*_LLAMAS, "qwen2", "qwen3"), tied=("qwen3",)),
    # DeciLM's block_configs, as TensorRT-LLM reads them too: MLP widths in steps of 256, one attention for all layers.
    "sglang": Deployment(attention_widths=False, merged_groups=False, mlp_multiple=256, families=_LLAMAS),
    # Any shape of a layer, of any family; one without attention keeps room for one KV group in its cache.
    "vllm": Deployment(),
}


def require_deployment(name: str) -> None:
    """Raises UserError where there is no such row."""
    if name not in DEPLOYMENTS:
        raise UserError(f"space.deploy: expected one of {', '.join(DEPLOYMENTS)}, got {name!r}.")


def deployment_of(name: str, spec: ModelSpec) -> Deployment:
    """The row of a deployment.

    Raises:
        UserError: There is none, or it does not run pruned models of the family.
    """
    require_deployment(name)
    deployment = DEPLOYMENTS[name]
    if deployment.families is not None and spec.family not in deployment.families:
        raise UserError(
            f"space.deploy={name}: expected a model of one of the families {', '.join(deployment.families)}, got "
            f"{spec.family}. Take deploy=uniform, whose checkpoints are plain ones of the family."
        )
    if spec.routed and not deployment.experts:
        raise UserError(
            f"space.deploy={name}: expected no mixture of experts, whose layers it runs with one number of them alone, "
            f"got {spec.family}. Take deploy=uniform, whose checkpoints are plain ones of the family."
        )
    if spec.family in deployment.tied and not spec.tied_embeddings:
        raise UserError(
            f"space.deploy={name}: expected a {spec.family} whose head is its embedding (tie_word_embeddings), got one "
            "with a head of its own. Take deploy=uniform."
        )
    return deployment
