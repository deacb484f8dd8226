"""How good is a candidate: `base` (types), `metrics` (all of them), `cost` (free), `latency` (table), `data`, and
`divergence` (forward passes).

`session` wires a run's parts, from the values of `settings`; `fidelities` are the questions that a search asks.
"""
