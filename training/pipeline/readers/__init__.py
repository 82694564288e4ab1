"""One file per format of recorded data."""
