"""Search for the Pareto front of pruned versions of a dense model; `--help` shows the settings."""

from __future__ import annotations

from conf.command import command

main = command("config", read="entries.settings:run_settings", work="entries.search:search")

if __name__ == "__main__":
    main()
