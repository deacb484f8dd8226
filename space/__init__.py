"""What can be pruned: the dense model, the search space over it, the permuted supernet and the export.

Torch-free: `spec`, `families`, `candidate`, `size`, `space` (with its parts `blocks` and `repair`), `errors`.
The dense model: `embedded` (default model and text), `hub`, `loading`.
Prefix views with a least-squares refit: `calibration`, `importance`, `compensation`, `surgery`, `supernet`,
`preparation`.
The checkpoint: `pruned_modeling`, `export`, `model_card`, `verify`, `reload_check`.
"""
