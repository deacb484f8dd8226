"""What subnets learn from the dense model: all together, each by itself, and the pick for longer.

- `healing`: of the weights that all subnets share, by `shared_training`; `healed`: the evaluator of what it gives.
- `objectives`: what is learned, by task.
- `recipes`: the settings of all of this.
- `rates`: how large steps are, by tensor.
- `rows`: which weights are trained, as memory allows.
- `distillation`: one subnet's training step by step; all of it is `repeatable`.
- `teacher`: what the dense model says of the text, for all students.
- `tuning`: stage after stage of these for the subnets of a run; `states` keeps them on disk.
- `tuned`: the evaluator of tuned subnets.
- `polish`: what an export gives its one model: a wider corrective refit, then `recovery`, longer distillation on
  `windows` of text, with `progress` of it, `processes` that share it, and a `power_law` that foretells its loss.
"""
