"""Small workloads and designs to time, and latency tables of old runs in the form that is read today."""

from __future__ import annotations

import json

from evaluators.latency.table import LatencyTable
from evaluators.latency.workload import Workload
from space.candidate import Candidate, Option

WORKLOAD = Workload(batch_size=1, length=8, threads=1, rounds=2, fit=1, check=1)
SERVING = Workload("serving", batch_size=2, length=8, new_tokens=5, threads=1, rounds=2, fit=0, check=0)
HOLES = Candidate.from_rows([[0, 0, 48], [4, 2, 0], [0, 0, 0], [3, 3, 16]])
CUT = Candidate.from_rows([[4, 2, 16]] * 4)
OPTIONS: dict[str, list[Option]] = {"attention": [(2, 1), (4, 2), (3, 3), (6, 3)], "mlp": [(16,), (48,)]}


def modern_table(text: str) -> str:
    """The JSON text of a latency table from that of an old one, with its very numbers.

    An old table has `attention_ms` and `mlp_ms`, and a `fit` of three numbers for base, attention and MLP.
    """
    table = json.loads(text)
    for phase in table["phases"].values():
        phase["block_ms"] = {kind: phase.pop(f"{kind}_ms") for kind in ("attention", "mlp")}
        phase["fit"] = dict(zip(("base", "attention", "mlp"), phase["fit"], strict=True))
    return LatencyTable.from_json(json.dumps(table)).to_json()
