"""What is timed, with which clock, and the table that prices any candidate."""
