"""Configuration of the entry scripts: groups of YAML files; `settings` makes values of them;
`places` says where a run's model and text are, and by what they are known.

It is a package so that an installed project finds it.
"""
