"""How good is a candidate: `base` (types), `metrics` (all of them), `cost` (free), `latency` (table), `data`, and
`divergence` (forward passes)."""
