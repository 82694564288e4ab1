"""One file per format that data is written in."""
