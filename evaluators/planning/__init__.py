"""What a run will take, said before it begins: memory, disk and minutes.

- `job`: a run that is to be; `memory`: what its stages hold, made of `parts`; `times`: how long they take.
- `fit`: what is too much for a machine, and which settings help.
- `machine`: what there is here: memory, disk, and speeds that are measured in a second or two.
"""
