"""Task scores by lm-eval.

- `harness`: asks models, as an objective or as evaluators of tasks.
- `harness_tasks`: loads tasks by name, and names them by all that their scores depend on.
"""
