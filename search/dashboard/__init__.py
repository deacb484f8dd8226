"""The live page of a run: `follow` its archive, its `course`, what `live_run` shows, `jobs` and who may ask, the `app`."""
