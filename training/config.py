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
        for name, ok, allowed in (
            (
                "hidden",
                self.hidden and min(self.hidden) >= 1,
                "one or more widths, each at least 1",
            ),
            ("members", 1 <= self.members <= 10, "1 to 10"),
            ("steps", self.steps >= 1, "at least 1"),
            ("batch", self.batch >= 1, "at least 1"),
            ("discount", 0 < self.discount <= 1, "above 0, at most 1"),
            ("expectile", 0 < self.expectile < 1, "between 0 and 1"),
            ("learning_rate", 0 < self.learning_rate < 1, "between 0 and 1"),
            ("denoise_steps", 1 <= self.denoise_steps <= 1000, "1 to 1000"),
            ("return_scale", 0 <= self.return_scale < float("inf"), "0 or a positive number"),
            ("seed", self.seed >= 0, "at least 0"),
            ("threads", self.threads >= 1, "at least 1"),
            ("workers", self.workers >= 1, "at least 1"),
        ):
            if not ok:
                raise UsageError(f"{name} is {getattr(self, name)}; allowed: {allowed}")
