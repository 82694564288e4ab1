"""A policy is a folder of data."""
