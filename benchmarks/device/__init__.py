"""The device checks of `benchmarks.gpu`.

`report` (findings as JSON), `machine` (where they run), `stopwatch` (ways to time a step) and `models` (random models
of larger shapes, and designs of them) are what the checks have in common. `facts` asks about the machine; `shapes`,
`truth`, `again` and `compiling` ask about these models; `parity` and `products` compare the CPU with the device.
"""
