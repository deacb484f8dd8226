"""What follows the cached refit of a candidate: a corrective refit, distillation, and the longer recovery of a pick.

- `corrections`: settings of the corrective refit.
- `distillation`: settings, and one subnet's training step by step.
- `teacher`: what the dense model says of the text, for all students.
- `tuning`: stage after stage of these for the subnets of a run; `states` keeps them on disk.
- `tuned`: the evaluator of tuned subnets.
- `recovery`, `pick_recovery`: longer distillation of one model, and of a pick on a run's text.
"""
