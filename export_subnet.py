"""Write one point of a run's front as a verified checkpoint; `--help` shows the settings."""

from __future__ import annotations

from conf.command import command

main = command("export", read="entries.pick_settings:export_settings", work="entries.export:export")

if __name__ == "__main__":
    main()
