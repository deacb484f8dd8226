"""Which point can go on with a text that another one has begun: whose keys and values are among that one's.

A subnet keeps the first groups of the supernet's, layer by layer, so the cache of a point has in it that of every point
which keeps no more of them. Points with the same attention and other MLPs can go on with one another's texts, either
way. It is not what they would have read themselves: keys and values come from a residual stream that other MLPs and
heads have written. What that costs is measured by `benchmarks.switching`. Free of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from space.candidate import Candidate

if TYPE_CHECKING:  # which has the types of this module
    from serving.load import Load

Source = tuple[int, int] | None  # a layer of the other cache, and heads of it; None where there is no attention
Sources = tuple[Source, ...]  # of each layer that a point has left, in order
Move = tuple[str, str]  # from a point to another one


def sources(facts: Mapping[str, Any], one: Candidate, other: Candidate) -> Sources | None:
    """Where a point finds, in the key-value cache of another one, what it goes on with.

    Args:
        facts: Of the dense model, as `ModelSpec.to_json` gives them.
        one: Whose cache it is.
        other: Who is to go on.

    Returns:
        One for each layer that is left of `other`; None where its keys and values are not among those of `one`: some
        layer has more groups than there, or others, as they are merged.
    """
    whole, repeats = facts["query_heads"] // facts["kv_heads"], facts.get("repeats_groups", False)
    layers, there = {index: place for place, index in enumerate(one.kept)}, list[Source]()
    for index in other.kept:
        first, then = one.layers[index], other.layers[index]
        if not then.keeps("attention"):
            there.append(None)
            continue
        alike = first.option("attention") == then.option("attention")
        merged = max(first.queries_per_group, then.queries_per_group) > whole
        if first.kv_heads < then.kv_heads or ((merged or repeats) and not alike):
            return None
        there.append((layers[index], then.query_heads if repeats else then.kv_heads))
    return tuple(there)


@dataclass(frozen=True)
class Switching:
    """What a scheduler does about texts that go on with another point.

    Attributes:
        sources: By who has begun and who can go on, see `sources`.
        again: Asked between two steps, in the scheduler's thread: who hands all that it writes for `auto` over to whom;
            None where all is well as it is.
    """

    sources: Mapping[Move, Sources]
    again: Callable[[Load], Move | None]
