"""Bags through the control core."""
