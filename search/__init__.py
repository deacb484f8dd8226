"""How to look: `algorithms` (ask and tell), `loop`, `archive`, `pareto`; nothing here imports torch.

Around the loop: `run_directory`, `watch/` (what a person, a log or a tracker sees), `finish` (held-out scores and
timings of the front), `report` (tables), `report_page` (report.md), `plot` and `page/` (front.html),
`picks`, `commands`.
"""
