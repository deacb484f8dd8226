"""How to look, without torch: algorithms propose candidates, and a loop asks evaluators about them.

- `protocol`: what an algorithm is given, and what the loop and it say to each other.
- `loop`: asks, stores and tells until the budget is spent.
- `executor`: who evaluates, the search's own process or others; `ray_pool`: those that Ray runs; `round`: what they are
  asked together.
- `archive`: the log of all evaluations.
- `course`: counts, front and hypervolume, as a fold over them.
- `algorithms`: NSGA-II, by pymoo.
- `script`: algorithms written down as one function.
- `rehearsal`: what a search would refuse and how long it takes to ask, found out with made-up answers.

What they stand on: `pareto` (geometry of fronts), `tables` (numbers that add up over genes), `constraints` (limits that
users set), `agreement` (how well surrogates and cheap fidelities do), `differences` (between settings, in words).

Rooms: `surrogate` (the default algorithm), `rivals` (other people's), `run` (one run on disk), `views` (what people see
of it).
"""
