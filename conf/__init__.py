"""Hydra configuration of the entry scripts; a package so that an installed project finds it."""
