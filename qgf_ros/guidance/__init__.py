"""Samplers: one protocol (`base`), one file per backend, chosen by `make_sampler`."""
