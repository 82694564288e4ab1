"""Settings of training, importable without torch: the command line shows them at once."""

from __future__ import annotations

from dataclasses import dataclass

from qgf_ros.errors import UsageError


@dataclass(frozen=True)
class FitConfig:
    """How to train. Defaults suit small state-based tasks on a CPU."""

    hidden: tuple[int, ...] = (256, 256, 256)
    """Widths of the hidden layers, of flow, critic and value alike."""
    members: int = 2
    """Critics in the ensemble; the smallest of them guides."""
    steps: int = 20_000
    """Gradient updates."""
    batch: int = 256
    """Chunks per update."""
    discount: float = 0.99
    """Per control period."""
    expectile: float = 0.9
    """Of the value: 0.5 is the data's average, towards 1 the best of the data."""
    learning_rate: float = 3e-4
    denoise_steps: int = 10
    """T, Euler steps from noise to action."""
    return_scale: float = 0.0
    """Rewards are divided by it; 0: the spread of returns in the data, 1: the published form."""
    grid_time: bool = False
    """Draw flow time from the grid of T steps, as published, instead of continuously."""
    seed: int = 0
    threads: int = 1
    """Of PyTorch. More than one is often slower on a busy machine."""
    workers: int = 2
    """Processes that read data."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.denoise_steps < 1 or not self.hidden:
            raise UsageError("steps, batch, denoise_steps and hidden must be positive")
