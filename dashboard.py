"""Show a run as a live page, while it searches and after; `--help` shows the settings."""

from __future__ import annotations

from conf.command import command

main = command("dashboard", read="entries.settings:dashboard_settings", work="entries.dashboard:show")

if __name__ == "__main__":
    main()
