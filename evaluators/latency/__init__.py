"""How long a candidate takes: what is timed, with which clock, and the table that prices any candidate.

- `workload`: what is timed.
- `clocks`: torch's clock and the protocol of all; `engine_clock`: what those of engines that serve share,
  `llamacpp_clock` and `vllm_clock`.
- `steps`, `standing_cache`: what torch's clock times, the same work at each call; `graphs`: the same as CUDA graphs.
- `bench`: block shapes for the table, and whole models; `end_to_end`: these as answers, on any device.
- `timings`: relative timings, kept on disk from run to run.
- `table`, `table_error`: the sum over blocks, and how far it is from what it stands for; `labels` of blocks;
  `elsewhere`: the table of another device.
- `memory`: the most bytes that a forward pass takes.
"""
