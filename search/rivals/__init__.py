"""Other people's ways to search, under the same protocol, evaluators and budget: what this project is measured against.

`script` is what all of them share (questions in stages, never one twice) and `axis` the budget that some walk along;
`baselines` has random samples and ladders, `greedy` block removal step by step, `evolution` (1+lambda) exchanges of
levels at fixed cost in the `window` of a target, and `additive` single-change scores with dynamic programming.
"""
