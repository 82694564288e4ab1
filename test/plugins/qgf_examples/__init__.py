"""Kinds that an installed package adds to qgf_ros: docs/extending.md goes through them."""
