"""What a run was made with: versions of Python and of the packages that its numbers depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("paretoprune", "torch", "transformers", "peft", "numpy", "scikit-learn", "pymoo")


def versions() -> dict[str, str]:
    """Versions by name, of what is installed here."""
    known = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            known[package] = version(package)
        except PackageNotFoundError:  # run from a source tree
            known[package] = "not installed"
    return known
