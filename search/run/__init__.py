"""One run on disk: its directory, its front, its end, picks and scores."""
