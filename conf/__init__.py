"""Configuration of the entry scripts: groups of YAML files, and `settings`, which makes values of them.

It is a package so that an installed project finds it.
"""
