"""What can be pruned: the dense model, the search space over it, the permuted supernet and the export.

Torch-free: `spec`, `families`, `candidate`, `space`. On torch: `embedded` and `loading` (models and text without a
hub), `calibration`, `importance`, `compensation` and `supernet` (prefix views with a least-squares refit), `surgery`,
`pruned_modeling` and `export`.
"""
