"""Other people's ways to search, under the same protocol, evaluators and budget: what this project is measured against.

- `baselines`: random samples, and ladders of uniform and depth-only designs.
- `greedy`: block removal step by step.
- `evolution`: (1+lambda) exchanges of levels at fixed cost.
- `additive`: scores of single changes, and dynamic programming.

What they share: `script` (the one quality that each is after), `axis` (the budget that some walk along) and `window`
(the designs of one cost).
"""
