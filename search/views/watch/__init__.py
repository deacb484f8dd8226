"""What a person sees of a run: `events` (what happens), `run` (who sends them), and those who listen.

Listeners: `screen` (live, on a terminal), `lines` (plain or none), `json_lines` (one object a line), `trackers`
(TensorBoard, MLflow, W&B). `progress` is what they say of a running search.
"""
