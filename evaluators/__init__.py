"""How good is a candidate: `base` (types), `cost` (free), `latency` (table), `divergence` (forward passes), `data`."""
