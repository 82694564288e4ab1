"""Recorded robot data: one reader per format, one time grid, one kind of episode."""
