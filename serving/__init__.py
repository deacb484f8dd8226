"""One model in memory, many speeds: the points of a run's front as views of one supernet, served side by side.

- `points`: the models of a run's points, and the memory that they take; `kept_refits`: what is dear of them, on disk.
- `requests`: what is asked of a point, and what comes back; `limits` of all that.
- `sampling`: the next token; `writing`: text out of tokens, up to a stop sequence.
- `batch`: the sequences of one point that share a key-value cache; `jobs`: a request on its way; `groups`: whoever one
  point writes; `calls`: what others want of the models; `scheduler`: all of them, in one thread.
- `switching`: who can go on with what another point has begun.
- `speeds`: what the server has measured of itself; `warming`: at first, kept beside the run.
- `load`: what it has to do, rolled forward with these speeds; `demand`: who is likely to come.
- `live`: what the server does now, told beside the run.
- `controllers`: which point answers; `timed`: those that keep limits of time; `bandit`: one that learns.
- `difficulty`: what points lose on a prompt, predicted; `fitting` of that; `senses`: what the models are asked for it.

Rooms: `api` (the same over HTTP, as OpenAI's clients ask it).
"""
