"""report.md of a run: `page` (its parts), `trust` (how far to trust it), `markdown` (text, tables, code)."""
