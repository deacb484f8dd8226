"""report.md of a run: `page` (its parts) and `trust` (how far to trust it)."""
