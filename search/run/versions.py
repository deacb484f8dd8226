"""Versions of Python and of the packages that a run's numbers depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("paretoprune", "torch", "transformers", "peft", "numpy", "scikit-learn", "pymoo")


def versions() -> dict[str, str]:
    """By name; a package that is missing is said to be."""
    numbers = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            numbers[package] = version(package)
        except PackageNotFoundError:  # run from a source tree
            numbers[package] = "not installed"
    return numbers
