"""How to look: `algorithms` (ask and tell), `loop`, `archive`, `pareto`; nothing here imports torch.

Around the loop: `run_directory`, `stages` and `progress` (what a person sees), `finish` (held-out scores and timings of
the front), `report` (tables), `plot`, `columns` and `page/` (front.html), `picks`, `finished` (a run after its end).
"""
