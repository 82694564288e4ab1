"""The scale of beta, on a critic whose curvature and gradient are known."""

import math

import pytest
import torch
from torch import nn

from training.judge.calibration import FLOOR_STABLE, LARGEST_RATIO, guidance_scale
from training.learn.config import FitConfig
from training.learn.critics.batch import ChunkBatch

D, STEPS = 3, 10


class Still(nn.Module):
    """A flow of constant speed."""

    def __init__(self, speed):
        super().__init__()
        self.speed = speed

    def forward(self, obs, a, time):
        return torch.full_like(a, self.speed / math.sqrt(D))


class Bowl(nn.Module):
    """Q = -lambda / 2 |a|^2 + slope . a: curvature lambda everywhere."""

    def __init__(self, curvature, slope=0.0):
        super().__init__()
        self.curvature, self.slope = curvature, slope

    def forward(self, obs, a):
        q = -0.5 * self.curvature * a.square().sum(-1) + self.slope * a.sum(-1)
        return torch.stack([q, q])


def batch(rows=200):
    random = torch.Generator().manual_seed(0)
    obs = torch.randn(rows, 2, generator=random)
    action = torch.rand(rows, D, generator=random) * 2 - 1
    one = torch.ones(rows)
    return ChunkBatch(obs, action, one, one, obs, one)


CONFIG = FitConfig(denoise_steps=STEPS)


def test_a_flat_critic_is_scaled_by_the_guidance_ratio_alone():
    """Q = slope . a: |g| = slope sqrt(D), and w |g| / |v| = 1 at beta = |g| / |v|."""
    beta, sanity = guidance_scale(Still(2.0), Bowl(0.0, slope=1.0), batch(), CONFIG)
    strong = math.sqrt(D) / 2.0
    assert beta.suggested == pytest.approx((strong, 2 * strong, 4 * strong), rel=0.05)
    assert beta.default == beta.suggested[-1] == max(beta.suggested)
    assert beta.min == pytest.approx(strong / LARGEST_RATIO, rel=0.05)
    assert sanity.q_low < sanity.q_high


def test_a_curved_critic_is_scaled_by_the_stability_of_the_steps():
    """w lambda / T < 2, so beta > lambda / (2 T), whatever the flow's speed."""
    beta, _ = guidance_scale(Still(1e4), Bowl(8.0), batch(), CONFIG)
    smallest = 8.0 / (2 * STEPS)
    assert beta.suggested == pytest.approx((smallest, 2 * smallest, 4 * smallest), rel=0.05)
    assert beta.min == pytest.approx(smallest, rel=0.05)


def test_a_critic_without_a_gradient_switches_guidance_off():
    beta, _ = guidance_scale(Still(1.0), Bowl(0.0), batch(), CONFIG)
    assert math.isinf(beta.default)


def test_the_floor_is_gentler_on_outliers_than_the_suggestions_are():
    class Mixed(Bowl):
        """One state in twenty is twenty times as curved."""

        def forward(self, obs, a):
            steep = torch.where(obs[:, :1] > 1.645, 20.0, 1.0)
            q = -0.5 * steep[:, 0] * a.square().sum(-1)
            return torch.stack([q, q])

    beta, _ = guidance_scale(Still(1e4), Mixed(1.0), batch(2000), CONFIG)
    assert FLOOR_STABLE < 0.95
    assert beta.min == pytest.approx(1 / (2 * STEPS), rel=0.05)
    assert beta.suggested[0] == pytest.approx(20 / (2 * STEPS), rel=0.05)
