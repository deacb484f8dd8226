"""The permuted dense model, its refits, and the views that are its subnets.

- `supernet`: prepare it once, then view any candidate.
- `recipe`: settings of that; `preparation` calibrates only what no earlier run has, on as much text as is `affordable`.
- `store`: what a prepared supernet keeps on disk; `sizes`: how large that is, and what is in memory.
- `refits`: weights of narrower blocks, of the dense model or of what subnets have learned; `slices`: plain ones, to be
  timed. `solved` keeps on disk what memory has no room for.
- `rounded_blocks`, `rounded_outer`: the same, and what is around the layers, in types of fewer bits.
- `view`: model objects whose tensors are the supernet's, put together from `modules`; `block_memory` keeps what is
  dear about them.
- `shared`: the weights that all subnets share, to be trained.
- `grams`: Gram matrices of what output projections read; `lost`: what blocks lose. Both from what refits need.
- `placement`: where the weights of a model are that is larger than its device, and how its layers pass there.

How it is prepared: `calibration` (Gram matrices), `importance` (the order of units), `experts` (that of a mixture's),
`units` (permuting and cutting them), `compensation` (the refit of output projections), `merging` (of KV groups), all of
one layer in `prepared_layer`; `hooks` tell what modules read on the way.
What follows for one candidate: `corrective_refit`, which fits a `correction` block by block, in a `corrective_step`
each.
`products` makes float32 matrix products fast.
"""
