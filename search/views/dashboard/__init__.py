"""The live page of a run: `serve` (the server), `app` (the page), `guard` (who may ask), `orders`, `jobs` (what for).

What it shows: `follow` (the archive, as it grows), `live_run` (what the run does now), `live_figure` (the plot's data
before there is a front), `curves` (against tokens), `served` (what servers of the run do now).
"""
