"""Configuration of the entry scripts: groups of YAML files, and what makes values of them.

- `command`: what an entry script runs, from its arguments to its exit status.
- `compose`: arguments to a configuration.
- `settings`: a configuration to settings, with `values` of the kinds that these expect.
- `places`: where a run's model and text are, and by what they are known.
- `sessions`: a run's session, by its directory.

It is a package so that an installed project finds it.
"""
