"""Numbers of the robot to numbers of the networks and back.

Observations become z-scores; actions become [-1, 1], the range the sampler clips to. An action may
be relative to an observed number: a position command to the position measured when the chunk is
sampled. Then a pose that no demonstration had is no new action. Policy and critic share one
normaliser, stored in policy.yaml beside the names it belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

QUANTILES = (0.001, 0.999)  # one bad row must not flatten all the others
FLOOR = 1e-6  # what varied less than this, relative to its size, did not vary
# Of the largest spread among its siblings (same message, field and unit): what varied less than
# this beside them is mostly noise, which a z-score would blow up to the size of a signal.
SIBLING_FLOOR = 0.1


@dataclass(frozen=True)
class Normalizer:
    """obs_mean, obs_std: (O,); action_center, action_half_range: (A,). float64, robot units.
    action_reference: (A,) int, which observed number an action is relative to; -1, also where none
    is given: it is taken as commanded.

    An action that never varied has half_range 0: it normalises to 0 and comes back as its constant.
    """

    obs_mean: np.ndarray
    obs_std: np.ndarray
    action_center: np.ndarray
    action_half_range: np.ndarray
    action_reference: np.ndarray = field(default_factory=lambda: np.empty(0, int))

    def __post_init__(self) -> None:
        if not len(self.action_reference):
            object.__setattr__(self, "action_reference", np.full(len(self.action_center), -1))
        arrays = (self.obs_mean, self.obs_std, self.action_center, self.action_half_range)
        if any(a.ndim != 1 for a in arrays) or not (
            len(self.obs_mean) == len(self.obs_std)
            and len(self.action_center) == len(self.action_half_range)
        ):
            raise ValueError(f"the normaliser's sizes do not fit: {[a.shape for a in arrays]}")
        if not all(np.isfinite(a).all() for a in arrays):
            raise ValueError("the normaliser has non-finite numbers")
        known = (self.action_reference >= -1) & (self.action_reference < len(self.obs_mean))
        if self.action_reference.shape != self.action_center.shape or not known.all():
            raise ValueError(
                f"action_reference is {self.action_reference.tolist()}; it has one whole number for each of "
                f"{len(self.action_center)} actions, -1 to {len(self.obs_mean) - 1}"
            )
        if (self.obs_std <= 0).any() or (self.action_half_range < 0).any():
            raise ValueError("the normaliser has a scale that is not positive")

    @classmethod
    def fit(
        cls,
        obs: np.ndarray,
        action: np.ndarray,
        siblings: np.ndarray | None = None,
        reference: np.ndarray | None = None,
    ) -> Normalizer:
        """From data.

        Args:
            obs: (N, O).
            action: (M, A); of relative actions the chunks (N, H, A) that begin at these
                observations: what a chunk does last is furthest from where it began.
            siblings: (O,), equal numbers share one unit (`Contract.observation_siblings`); None:
                every number stands alone.
            reference: (A,), what each action may be relative to, -1 for none; None: all are as
                commanded. Only those become relative that vary less so: a joint that is always sent
                to one place stays there, whatever pushes it.
        """
        count = action.shape[-1]
        low, high = np.quantile(action.reshape(-1, count), QUANTILES, axis=0)
        reference = np.full(count, -1) if reference is None else reference
        if (reference >= 0).any():
            chunks = action.reshape(len(obs), -1, count) - _from(reference, obs)
            varies, varies_less = action.reshape(-1, count).std(0), chunks.reshape(-1, count).std(0)
            reference = np.where(varies_less < varies, reference, -1)
            ends = np.quantile(chunks.reshape(-1, count), QUANTILES, axis=0)
            low, high = np.where(reference < 0, (low, high), ends)
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
            action_reference=reference,
        )

    def normalize_obs(self, obs: np.ndarray) -> np.ndarray:
        """(..., O) in robot units -> z-scores, float32."""
        return ((obs - self.obs_mean) / self.obs_std).astype(np.float32)

    def unnormalize_obs(self, obs: np.ndarray) -> np.ndarray:
        """(..., O) z-scores -> robot units, float64."""
        return self.obs_mean + self.obs_std * np.asarray(obs, dtype=np.float64)

    def normalize_action(
        self, action: np.ndarray, obs: np.ndarray | None = None, clip: bool = True
    ) -> np.ndarray:
        """(..., H, A) in robot units -> [-1, 1], float32; without `clip` what lies beyond stays there.

        obs: (..., O) in robot units, where each chunk begins. Only relative actions need it; without
        them action may be (..., A).
        """
        varied = self.action_half_range > 0
        scale = np.where(varied, self.action_half_range, 1.0)
        unit = np.where(varied, (action - self._origin(obs) - self.action_center) / scale, 0.0)
        return (np.clip(unit, -1, 1) if clip else unit).astype(np.float32)

    def unnormalize_action(self, action: np.ndarray, obs: np.ndarray | None = None) -> np.ndarray:
        """(..., H, A) in [-1, 1] -> robot units, float64; obs as in `normalize_action`."""
        unit = np.asarray(action, dtype=np.float64)
        return self._origin(obs) + self.action_center + self.action_half_range * unit

    def action_bounds(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest action, (A,) each in robot units, that [-1, 1] can mean, where what a
        relative action is relative to lies within low..high, (A,)."""
        relative = self.action_reference >= 0
        middle, half = self.action_center, self.action_half_range
        return np.where(relative, low, 0.0) + middle - half, np.where(
            relative, high, 0.0
        ) + middle + half

    def _origin(self, obs: np.ndarray | None) -> np.ndarray | float:
        if (self.action_reference < 0).all():
            return 0.0
        if obs is None:
            raise ValueError("relative actions need the observation that they are relative to")
        return _from(self.action_reference, obs)

    def to_dict(self) -> dict[str, list[float]]:
        return {name: getattr(self, name).tolist() for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, value: dict[str, list[float]]) -> Normalizer:
        unknown = sorted(set(value) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(f"{', '.join(unknown)} are not known to this version")
        numbers = {
            n: np.asarray(value[n], dtype=np.float64) for n in list(cls.__dataclass_fields__)[:4]
        }
        reference = np.asarray(value.get("action_reference", []), dtype=np.float64)
        if (reference != np.round(reference)).any():
            raise ValueError(f"action_reference is {reference.tolist()}; it has whole numbers")
        return cls(**numbers, action_reference=reference.astype(int))


def _from(reference: np.ndarray, obs: np.ndarray) -> np.ndarray:
    """(..., O) -> (..., 1, A): what each action is relative to, 0 where that is nothing."""
    return np.where(reference < 0, 0.0, obs[..., None, reference])
