"""How good is a candidate: metrics, the measures behind them, and the evaluators that a search asks.

- `base`: metrics, evaluations and the `Evaluator` protocol.
- `metrics`: all metrics, one row each.
- `settings`, `paths`, `session`: what a session is told, where it lives, and a run's parts wired from these.
- `model_settings`: which model that is; `applicable`: what does not apply to its task.
- `actor`: what another process opens of a run to evaluate for it.
- `streaming`: what a model that is larger than its device can not do.
- `fidelities`: the evaluators of a search, from the cheapest on.
- `amounts`: what minutes come to in tokens, by `speeds` that `throughput` measures once; `settled`: as a run keeps it.
- `closing`: what is asked last: `long_context` (held-out text in long windows) and `samples` (what models write);
  `accuracy` (held-out labels).

What costs nothing: `cost` (parameters, work, cache) and `refit_error` (what each block loses for itself).
`window_sizes`: how much of a window each fidelity sees. `typed`: what goes with types of matrices.
What runs text: `comparisons` (which `comparison` with the dense model a task has), `divergence` (KL and likelihood),
`embeddings` (cosines), `classes` (KL of class probabilities), `prefix` (first layers that candidates share, run once),
`layer_major` (all candidates layer by layer, where these wait on the host), `output_head` (logits in slices).
`isolation` keeps what libraries do to the whole process inside.

Rooms: `data` (the text, in parts and as a stream), `latency` (timings), `training` (what follows the cached refit),
`tasks` (lm-eval), `vocabulary` (fewer tokens), `planning` (what a run will take).
"""
