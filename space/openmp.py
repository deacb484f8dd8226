"""How long threads on a CPU wait for each other awake; free of torch, which reads it when it is first imported.

Threads of libgomp, which torch computes with, wait awake for some milliseconds before they sleep. Where something else
has a part of a core, one of them has to wait for it, and the others, awake, take from what there is. On two cores with
one busy loop beside them a training step of blocks of SmolLM2's sizes takes 3.4 times its time, and 2.3 times with
waits of some hundredths of a millisecond, which take nothing from it where the cores are idle (344 ms against 346).
"""

from __future__ import annotations

import os

_POLICY, _SPINS = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
_SHORT = "10000"


def wait_shortly() -> None:
    """Has threads of this process and of its children sleep soon, unless the environment says how they wait."""
    if not {_POLICY, _SPINS} & os.environ.keys():
        os.environ[_SPINS] = _SHORT


def environment() -> dict[str, str]:
    """This process's environment without that: for engines, which are to run as they do where they serve."""
    return {name: value for name, value in os.environ.items() if (name, value) != (_SPINS, _SHORT)}
