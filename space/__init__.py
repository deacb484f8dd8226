"""What can be pruned: facts of the dense model, candidates and the search space over them; free of torch at this level.

The model and its candidates: `spec`, facts of the dense model; `candidate`, one pruned architecture as a value; `size`,
their parameters; `task`, what a model is for.
The search space: `space`, the map between genes and candidates; `blocks`, what each gene chooses; `options`, of how
many; `types` of their matrices; `choices`, of all blocks together; `checks` of its settings; `deploy`, what the place
can run where the model will be served.
Which genes are valid: `repair` mends them; `limits`, upper ones on sums over blocks; `bounds`, what is left of a space;
`ladders`, regular designs.
For all rooms: `errors` of users; `locations`, of what users name and of the cache; `files`, written whole or not at
all; `directory_lock`, who works in a directory; `markdown`, text that stays text; `listening`, who may ask a server;
`openmp`, how threads wait.

Rooms: `models` loads dense models, `supernet` makes views of one permuted model, `formats` writes checkpoints.
`rounding` rounds matrices to types of fewer bits.
`vocabulary`, as torch-free as this level, trims tokenizers.
"""
