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
        mlp_multiple: What counts of MLP channels must be multiples of.
        families: Of models that it runs pruned; None for all.
    """

    same_layers: bool = False
    attention_widths: bool = True
    mlp_multiple: int = 1
    families: tuple[str, ...] | None = None


_LLAMAS = ("llama", "mistral")
DEPLOYMENTS = {
    "any": Deployment(),
    # A stock config.json, which every runtime reads.
    "uniform": Deployment(same_layers=True),
    # GGUF with shapes by layer (architecture deci); blocks of Q8_0 are 32 values.
    "llamacpp": Deployment(mlp_multiple=32, families=_LLAMAS),
    # DeciLM's block_configs have one count of query heads for all layers, so that KV groups are merged and not dropped,
    # and MLP widths in steps of 256.
    "vllm": Deployment(attention_widths=False, mlp_multiple=256, families=_LLAMAS),
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
    return deployment
