"""What the entry scripts do, once their settings are read: the parts of all rooms, put together.

- `settings`: these, of those that are about a run; `pick_settings`: of those that are about one point of it.
- `search`: of `run_search.py`, the main job; `minutes`: its budget, in tokens; `plan`: what it would take.
- `export`: of `export_subnet.py`.
- `score`: of `score_subnet.py`.
- `timing`: of `time_front.py`; `timing_settings`: what that is told.
- `serve`: of `serve_subnets.py`; `serve_settings`: what that is told.
- `dashboard`: of `dashboard.py`.
"""
