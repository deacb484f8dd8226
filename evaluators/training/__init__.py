"""What subnets learn from the dense model: all together, each by itself, and the pick for longer.

- `healing`: of the weights that all subnets share, by `shared_training`; `healed`: the evaluator of what it gives.
- `corrections`: settings of the corrective refit.
- `distillation`: settings, and one subnet's training step by step.
- `teacher`: what the dense model says of the text, for all students.
- `tuning`: stage after stage of these for the subnets of a run; `states` keeps them on disk.
- `tuned`: the evaluator of tuned subnets.
- `recovery`, `pick_recovery`: longer distillation of one model, and of a pick on a run's text.
"""
