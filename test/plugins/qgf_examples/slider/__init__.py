"""A slider on a rail, driven by its velocity to a mark."""
