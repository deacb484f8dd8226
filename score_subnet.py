"""Score one point of a run on tasks of lm-eval, the dense model beside it; `--help` shows the settings."""

from __future__ import annotations

from conf.command import command

main = command("score", read="entries.pick_settings:score_settings", work="entries.score:score")

if __name__ == "__main__":
    main()
