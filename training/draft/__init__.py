"""A contract drafted from a recording."""
