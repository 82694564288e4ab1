"""Simulated worlds. A folder per world: MJCF, contract, scripted demonstrator."""
