"""pointmaze: a mobile base, driven by Twist, finds its way through a maze (OGBench pointmaze-medium)."""
