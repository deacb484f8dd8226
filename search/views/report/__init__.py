"""The written report of a run."""
