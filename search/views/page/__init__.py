"""The front as one offline page."""
