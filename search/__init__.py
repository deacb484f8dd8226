"""How to look, without torch: `protocol` (ask and tell), `algorithms`, `loop`, and what they stand on.

`archive` keeps evaluations, `course` is the fold over them, `pareto` and `agreement` judge them, `constraints`,
`tables` and `script` help algorithms, `differences` compares settings. Rooms: `surrogate` and `rivals` (algorithms),
`run` (one run on disk), `views` (what people see of it).
"""
