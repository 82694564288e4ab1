"""One file per check of the state."""
