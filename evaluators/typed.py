"""Designs that choose types for their matrices: what can run them, and what of a run goes with them."""

from __future__ import annotations

from evaluators.latency.workload import Workload
from evaluators.training.recipes import CorrectiveRefit, Distillation, Healing
from space.errors import UserError


def require_types(
    workload: Workload,
    correction: CorrectiveRefit | None,
    distillation: Healing | Distillation | None,
    training: str,
) -> None:
    """Refuses what does not go with types of matrices.

    Args:
        workload: What is timed.
        correction: The corrective refit of single designs.
        distillation: How subnets are trained.
        training: When; see `evaluators.settings.Settings`.

    Raises:
        UserError: Another engine than llama.cpp is to run them, or all in one type; or designs are to be refit or
            trained each by itself.
    """
    if workload.engine != "llamacpp":
        raise UserError(
            f"latency.engine={workload.engine}: expected llamacpp where space.types names any, as it alone has "
            "them. Set latency.engine=llamacpp, or space.types=[]."
        )
    if workload.gguf_type != "f16":
        raise UserError(
            f"latency.gguf_type={workload.gguf_type}: expected f16 where space.types names any, as designs have "
            "types of their own. Leave it out, or set space.types=[]."
        )
    healed = isinstance(distillation, Healing) and training != "off"
    trained = isinstance(distillation, Distillation) and training != "off"
    if trained or (correction is not None and not healed):
        raise UserError(
            "distillation: expected healing, or neither training nor a corrective refit, where space.types names any: "
            "single designs are not refit or trained in their types. Set distillation=default, or "
            "search.distillation=off correction=none."
        )
