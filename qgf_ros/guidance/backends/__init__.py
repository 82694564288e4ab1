"""One file per sampler backend."""
