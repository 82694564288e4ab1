"""What a core did in a segment against what was recorded there, as sums that can be added up.

Every figure is a ratio of two sums (or the root of one), so that whole recordings, resamples of
their segments, and runs on several processes come from the same small arrays. Rows in which the
core did not drive (HOLD, FAULT, WAITING) sample nothing and send no action: they are counted, and
in no figure.
"""

from __future__ import annotations

import numpy as np

from qgf_ros.policy.folder import Policy
from qgf_ros.replay.critic import NumpyCritic
from qgf_ros.replay.drive import Row, Track
from qgf_ros.replay.player import Segment
from qgf_ros.spaces.actions.codec import Origin

Sums = dict[str, np.ndarray]  # figure -> (2, ...): what is added up, and over how many

MOVES = 0.05  # of the largest speed, or of a gripper's range: less is standing still
AROUND = 0.5  # s before and after a gripper's command changes
ENDING = 2.0  # s before an outcome
INTERVALS = ("all", "moving", "grasping", "ending")
# Edges of the distance to the recorded chunk, RMS over its numbers, which are -1 to 1.
DISTANCES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, np.inf)


class Scorer:
    """Scores the segments of one policy."""

    def __init__(self, policy: Policy) -> None:
        low, high, _ = policy.contract.limits
        self._policy, self._critic = policy, NumpyCritic(policy)
        self._period = policy.contract.time.period
        self.span = high - low
        self._velocity, self._speed = policy.contract.velocity_like, policy.contract.speeds
        self._gripper = np.array([kind.grips for kind in policy.contract.action_kinds])

    def __call__(self, segment: Segment, track: Track, recorded: np.ndarray) -> Sums:
        """recorded: (n + H, A) commands of the n ticks and a horizon beyond, NaN where none was."""
        n = segment.ticks
        sent = np.full((n, recorded.shape[1]), np.nan)
        for i, (values, admitted) in enumerate(zip(track.sent, track.admitted)):
            if admitted and values is not None:
                sent[i] = values
        driven = np.isfinite(sent[:, 0])
        sums = {
            "command_error": _sums(((sent - recorded[:n]) / self.span) ** 2),
            "limited": np.array([track.limited, driven.sum()], float),
            "held": np.array([n - driven.sum(), n], float),
            **self._jerk(sent, recorded[:n]),
        }
        if track.rows:
            target = recorded.copy()
            target[:n][~driven] = np.nan  # of a chunk that a hold cut short, what came before it
            sums |= self._samples(segment, track.rows, target)
        return sums

    def _jerk(self, sent: np.ndarray, recorded: np.ndarray) -> Sums:
        """Squares of the jerk in widths of the range per s^3, of both at the same ticks."""
        ours, theirs = (self._third(x / self.span) for x in (sent, recorded))
        both = np.isfinite(ours) & np.isfinite(theirs)
        ours, theirs = (np.where(both, x, np.nan) ** 2 for x in (ours, theirs))
        return {"jerk": _sums(ours), "recorded_jerk": _sums(theirs)}

    def _third(self, x: np.ndarray) -> np.ndarray:
        """(n, A): positions differ three times, velocities twice; NaN where a tick is missing."""
        out = np.full_like(x, np.nan)
        for order, which in ((2, self._velocity), (3, ~self._velocity)):
            if which.any() and len(x) > order:
                out[order:, which] = np.diff(x[:, which], order, axis=0) / self._period**order
        return out

    def _samples(self, segment: Segment, rows: list[Row], recorded: np.ndarray) -> Sums:
        policy, horizon = self._policy, self._policy.horizon
        at = np.array([row.tick for row in rows])
        obs = np.stack([row.observed.encoded for row in rows])
        executed = np.stack([row.executed for row in rows])  # (S, H, A)
        seen = Origin.stack([row.observed.origin for row in rows])
        flat = np.stack([row.unguided for row in rows])
        unguided = policy.codec.decode(flat.reshape(len(rows), horizon, policy.action_dim), seen)
        steps = at[:, None] + np.arange(horizon)
        target = recorded[steps]  # (S, H, A)
        error, error_unguided = (((x - target) / self.span) ** 2 for x in (executed, unguided))
        sums: Sums = {}
        for name, there in self._intervals(segment, recorded).items():
            inside = there[steps][..., None]
            sums[f"error/{name}"] = _sums(np.where(inside, error, np.nan), 0)
            sums[f"error_unguided/{name}"] = _sums(np.where(inside, error_unguided, np.nan), 0)
        whole = np.isfinite(target).all(axis=(1, 2))
        known = np.where(whole[:, None, None], target, 0.0)
        wanted = policy.codec.encode(known, seen).reshape(flat.shape)
        done = policy.codec.encode(executed, seen).reshape(flat.shape)
        q_recorded = np.where(whole, self._critic(obs, wanted), np.nan)
        far, far_unguided = (
            np.where(whole, np.sqrt(np.square(x - wanted).mean(axis=1)), np.nan)
            for x in (done, flat)
        )
        q, q_unguided, std, ratio, clipped, seam = np.array([
            (s.q, s.q_unguided, s.q_std, s.guidance_ratio, s.share_clipped, s.seam_jump)
            for s in (row.sampled for row in rows)
        ]).T  # fmt: skip
        guarded = np.array([bool(row.sampled.guards) for row in rows], float)
        gain = q - q_unguided
        for name, values in {
            "q_recorded": q_recorded,
            "q_unguided": q_unguided,
            "q_guided": q,
            "q_gain": gain,
            "q_over_recorded": q - q_recorded,
            "distance": far,
            "distance_unguided": far_unguided,
            "farther": far - far_unguided,
            "disagreement": std,
            "guidance_ratio": ratio,
            "clipped": clipped,
            "seam_jump": seam,
            "guarded": guarded,
        }.items():
            sums[name] = _sums(values)
        band = np.digitize(far, DISTANCES[1:-1])
        bands = np.arange(len(DISTANCES) - 1)[:, None]
        apart = np.where(whole & (band == bands), gain, np.nan)
        sums["gain_by_distance"] = _sums(apart, 1)
        return sums

    def _intervals(self, segment: Segment, recorded: np.ndarray) -> dict[str, np.ndarray]:
        """Which ticks (n + H,) lie in each interval that there is."""
        count = len(recorded)
        there = {"all": np.ones(count, bool)}
        change = np.abs(np.diff(recorded, axis=0, prepend=recorded[:1])) / self._period
        speed = np.where(self._velocity, np.abs(recorded), change)
        there["moving"] = np.any(speed > MOVES * self._speed, axis=1)  # NaN compares false
        if self._gripper.any():
            span = (MOVES * self.span / self._period)[self._gripper]
            changes = np.flatnonzero((change[:, self._gripper] > span).any(axis=1))
            reach = round(AROUND / self._period)
            there["grasping"] = np.zeros(count, bool)
            for at in changes:
                there["grasping"][max(0, at - reach) : at + reach + 1] = True
        if segment.ended:
            there["ending"] = np.arange(count) >= segment.ticks - round(ENDING / self._period)
        return there


def _sums(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Sum and count of what is not NaN along an axis: (2, ...)."""
    known = np.isfinite(values)
    return np.stack([np.where(known, values, 0.0).sum(axis=axis), known.sum(axis=axis)])
