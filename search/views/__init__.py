"""What people see of a run: watched live, reported, as a page, as a dashboard."""
