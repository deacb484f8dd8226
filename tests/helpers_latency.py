"""Latency tables of runs before tables were one mapping by kind of block, in the form that is read today."""

from __future__ import annotations

import json

from evaluators.latency.table import LatencyTable


def modern_table(text: str) -> str:
    """The JSON text of a latency table from that of an old one, with its very numbers.

    An old table has `attention_ms` and `mlp_ms`, and a `fit` of three numbers for base, attention and MLP.
    """
    table = json.loads(text)
    for phase in table["phases"].values():
        phase["block_ms"] = {kind: phase.pop(f"{kind}_ms") for kind in ("attention", "mlp")}
        phase["fit"] = dict(zip(("base", "attention", "mlp"), phase["fit"], strict=True))
    return LatencyTable.from_json(json.dumps(table)).to_json()
