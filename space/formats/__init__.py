"""Checkpoints in the formats of those who serve them: registry, verification, model card; a package for each format."""
