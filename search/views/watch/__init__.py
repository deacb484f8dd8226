"""What a person sees of a run: `events` (what happens), `run` (who sends them), and those who listen.

Listeners: `screen` (live, on a terminal), `lines` (plain or none), `json_lines` (one object a line), `tracking` (what a
tracker of experiments is told, and when) with `trackers` (TensorBoard, MLflow, W&B). `progress` is what they say of a
running search, `front_table` and `score_table` what they show of its end.
"""
