"""Serve the points of a run's front over HTTP; `--help` shows the settings."""

from __future__ import annotations

from conf.command import command

main = command("serve", read="entries.serve_settings:serve_settings", work="entries.serve:serve")

if __name__ == "__main__":
    main()
