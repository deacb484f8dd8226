"""How good is a candidate: `base` (types), `cost` (free), `latency` (table), `divergence` (forward passes), `data`.

`session` wires a run's parts, from the values of `settings`; `fidelities` are the questions that a search asks.
"""
