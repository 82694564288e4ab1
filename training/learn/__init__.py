"""From prepared data to trained networks."""
