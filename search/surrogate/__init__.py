"""The default search: a sweep, knapsacks, and NSGA-II on a surrogate that true evaluations correct.

- `surrogate`: the algorithm from start to end.
- `sensitivity`: the sweep, which looks at each gene alone.
- `knapsack`: designs of least additive loss.
- `operators`: changes to designs that make sense for transformers.
- `infill`: which new designs to ask about.
- `halving`: who is asked at which fidelity.
- `forecast`: what each fidelity will say of a design.
- `predictor`: a trend and a regression, chosen by how well they rank; `regressions`: their kinds.
- `features`: what they see of a design.
"""
