"""Time the front of a finished run end to end on this device; `--help` shows the settings."""

from __future__ import annotations

from conf.command import command

main = command("timing", read="entries.timing_settings:timing_settings", work="entries.timing:time_front")

if __name__ == "__main__":
    main()
