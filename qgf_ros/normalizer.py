"""Numbers of the robot to numbers of the networks and back.

Observations become z-scores; actions become [-1, 1], the range the sampler clips to. Policy and
critic share one normaliser, stored in policy.yaml beside the names it belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

QUANTILES = (0.001, 0.999)  # one bad row must not flatten all the others
FLOOR = 1e-6  # what varied less than this, relative to its size, did not vary
# Of the largest spread among its siblings (same message, field and unit): what varied less than
# this beside them is mostly noise, which a z-score would blow up to the size of a signal.
SIBLING_FLOOR = 0.1


@dataclass(frozen=True)
class Normalizer:
    """obs_mean, obs_std: (O,); action_center, action_half_range: (A,). float64, robot units.

    An action that never varied has half_range 0: it normalises to 0 and comes back as its constant.
    """

    obs_mean: np.ndarray
    obs_std: np.ndarray
    action_center: np.ndarray
    action_half_range: np.ndarray

    def __post_init__(self) -> None:
        arrays = (self.obs_mean, self.obs_std, self.action_center, self.action_half_range)
        if any(a.ndim != 1 for a in arrays) or not (
            len(self.obs_mean) == len(self.obs_std)
            and len(self.action_center) == len(self.action_half_range)
        ):
            raise ValueError(f"the normaliser's sizes do not fit: {[a.shape for a in arrays]}")
        if not all(np.isfinite(a).all() for a in arrays):
            raise ValueError("the normaliser has non-finite numbers")
        if (self.obs_std <= 0).any() or (self.action_half_range < 0).any():
            raise ValueError("the normaliser has a scale that is not positive")

    @classmethod
    def fit(
        cls, obs: np.ndarray, action: np.ndarray, siblings: np.ndarray | None = None
    ) -> Normalizer:
        """From data: obs (N, O), action (N, A); siblings (O,): equal numbers share one unit
        (`Contract.observation_siblings`), None: every number stands alone."""
        low, high = np.quantile(action, QUANTILES, axis=0)
        half = (high - low) / 2
        low_obs, high_obs = np.quantile(obs, QUANTILES, axis=0)
        inliers = np.clip(obs, low_obs, high_obs)
        mean, std = inliers.mean(0), inliers.std(0)
        if siblings is not None:
            largest = np.zeros(len(std))
            np.maximum.at(largest, siblings, std)
            std = np.maximum(std, SIBLING_FLOOR * largest[siblings])
        # A number that did not vary must not become noise a million times as large.
        return cls(
            obs_mean=mean,
            obs_std=np.where(std <= FLOOR * np.maximum(1, np.abs(mean)), 1.0, std),
            action_center=(high + low) / 2,
            action_half_range=np.where(half <= FLOOR * np.maximum(1, np.abs(high)), 0.0, half),
        )

    def normalize_obs(self, obs: np.ndarray) -> np.ndarray:
        """(..., O) in robot units -> z-scores, float32."""
        return ((obs - self.obs_mean) / self.obs_std).astype(np.float32)

    def normalize_action(self, action: np.ndarray) -> np.ndarray:
        """(..., A) in robot units -> [-1, 1], clipped, float32."""
        varied = self.action_half_range > 0
        scale = np.where(varied, self.action_half_range, 1.0)
        unit = np.where(varied, (action - self.action_center) / scale, 0.0)
        return np.clip(unit, -1, 1).astype(np.float32)

    def unnormalize_action(self, action: np.ndarray) -> np.ndarray:
        """(..., A) in [-1, 1] -> robot units, float64."""
        return self.action_center + self.action_half_range * np.asarray(action, dtype=np.float64)

    def to_dict(self) -> dict[str, list[float]]:
        return {name: getattr(self, name).tolist() for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, value: dict[str, list[float]]) -> Normalizer:
        return cls(**{n: np.asarray(value[n], dtype=np.float64) for n in cls.__dataclass_fields__})
