"""`qgf latency`: how long after an image's capture its features are there, for the contract's `latency`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from qgf_ros.cli import Options
from qgf_ros.console import say, table
from qgf_ros.errors import CriterionNotMet, UsageError
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.observations.image import MAX_LATENCY

LEAST = 50  # features, of which one in twenty says something
LONGEST = 3600.0  # s
# Nineteen of twenty times the robot has at least the image that training has paired. The one in a hundred is
# made by the machine's stalls: to wait for it would show every other action an image that is older by that.
SHARE = 0.95


@dataclass
class Heard:
    """What came of one camera.

    latencies: s from capture to receipt, of features that count. refused: by the reason why there were
    none. unstamped: of images without a capture's time.
    """

    camera: str
    topic: str
    told: float  # s, what the contract says now
    latencies: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    others: int = 0  # of another policy
    unstamped: int = 0

    def take(self, msg: Any, receipt: int, stamp: int, policy: str) -> None:
        """A qgf_ros/Features. policy: whose features count; "": everybody's. Times in ns."""
        if policy and msg.policy != policy:
            self.others += 1
        elif msg.reason:
            self.refused[str(msg.reason)[:40]] += 1
        elif msg.detail:
            self.unstamped += 1
        else:
            self.latencies.append((receipt - stamp) * 1e-9)

    @property
    def percentiles(self) -> tuple[float, float, float]:
        """p50, p95 and p99 in s; NaN where nothing came."""
        if not self.latencies:
            return (math.nan,) * 3
        p50, p95, p99 = np.quantile(self.latencies, (0.5, SHARE, 0.99))
        return float(p50), float(p95), float(p99)

    @property
    def early(self) -> int:
        """How many were received before their capture."""
        return sum(seconds < 0 for seconds in self.latencies)

    @property
    def silence(self) -> str:
        """Why nothing can be said of it at all; "" where something came."""
        if self.latencies or self.unstamped:
            return ""
        if self.refused:
            codes = ", ".join(f"{count} x {code}" for code, count in self.refused.most_common(3))
            return f"{self.topic} has no features, only reasons: {codes}"
        if self.others:
            return f"{self.topic} has features of another policy alone ({self.others})"
        return f"nothing came on {self.topic}"

    @property
    def doubt(self) -> str:
        """Why nothing is proposed of what came; "" where something is."""
        if self.unstamped:
            return (
                f"{self.camera}: {self.unstamped} images have no stamp; when they were captured is not known: let "
                "the driver stamp them"
            )
        if self.early:
            worst = min(self.latencies)
            return (
                f"{self.camera}: {self.early} of {len(self.latencies)} were received before their capture, the "
                f"worst by {-worst * 1e3:.1f} ms: the clock that stamps it is ahead of this machine's; set both "
                "by one (chrony, PTP)"
            )
        if len(self.latencies) < LEAST:
            return f"{self.camera}: {len(self.latencies)} features came, at least {LEAST} are needed; listen longer"
        if self.percentiles[1] > MAX_LATENCY:
            return (
                f"{self.camera}: {self.percentiles[1]:.3g} s from capture to receipt; a contract allows "
                f"{MAX_LATENCY:g}: its clock is behind this machine's, or it is stamped in simulated time"
            )
        return ""

    @property
    def proposed(self) -> float | None:
        """s in whole ms, rounded up; None where something speaks against it."""
        if self.silence or self.doubt:
            return None
        return max(1, math.ceil(round(self.percentiles[1] * 1e3, 6))) / 1e3

    def document(self, seconds: float) -> dict[str, Any]:
        p50, p95, p99 = (1e3 * s for s in self.percentiles)
        return {
            "camera": self.camera, "topic": self.topic, "features": len(self.latencies),
            "rate": len(self.latencies) / seconds, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99,
            "before_capture": self.early, "without_stamp": self.unstamped, "of_another_policy": self.others,
            "refused": dict(self.refused), "contract_s": self.told, "proposed_s": self.proposed,
            "problem": self.silence or self.doubt,
        }  # fmt: skip


@dataclass(frozen=True)
class CameraLatency(Options):
    """Measure how long after capture a camera's features are there, and propose the contract's latency.

    On the robot, while the cameras and qgf_encoder run: it only listens. A policy that has learnt for a moment
    does to measure; with its folder only its own features count, with a contract those of any policy. Exit
    code 2 where a camera has no features, 8 where something speaks against a proposal.
    """

    policy: Annotated[str, tyro.conf.Positional]
    """Policy folder, or a contract file."""
    seconds: float = 10.0
    """How long to listen."""
    namespace: str = "/"
    """Of qgf_encoder."""

    def run(self) -> Mapping[str, Any]:
        contract, sha256 = _asked(self.policy)
        if not 0.1 <= self.seconds <= LONGEST:
            raise UsageError(f"seconds is {self.seconds:g}; allowed: 0.1 to {LONGEST:g}")
        if not contract.cameras:
            raise UsageError(f"{self.policy} has no cameras, whose latency could be measured")
        root = "/" + self.namespace.strip("/")
        cameras = [
            Heard(c.name, f"{root.rstrip('/')}/{c.heard.topic}", c.latency) for c in contract.cameras
        ]
        try:
            from qgf_ros.ros.latency import listen
        except ModuleNotFoundError as error:
            raise UsageError(
                f"{error.name} is not there: source ROS 2 and the colcon build (`make build` does both)"
            ) from None
        listened = listen(cameras, sha256, self.seconds)
        rows = [camera.document(listened) for camera in cameras]
        document = {"seconds": listened, "policy": sha256 or None, "cameras": rows}
        _show(rows)
        if silent := [camera.silence for camera in cameras if camera.silence]:
            raise UsageError(
                f"{'; '.join(silent)}; start the cameras and qgf_encoder, and look at ROS_DOMAIN_ID and "
                "--namespace",
                document,
            )
        if doubts := [camera.doubt for camera in cameras if camera.doubt]:
            raise CriterionNotMet(f"no latency is proposed: {'; '.join(doubts)}", document)
        return document


def _asked(policy: str) -> tuple[Contract, str]:
    """The contract as it is recorded, and whose features count; "": everybody's."""
    from qgf_ros.files.share import find_policy
    from qgf_ros.policy.folder import load_policy

    if Path(policy).expanduser().is_file():
        return Contract.load(Path(policy).expanduser()), ""
    loaded = load_policy(find_policy(policy))
    return loaded.contract.recorded, loaded.sha256


def _show(rows: list[dict[str, Any]]) -> None:
    columns = ("camera", "features", "per s", "p50 [ms]", "p95 [ms]", "p99 [ms]", "contract [ms]")
    shown = [
        (
            r["camera"], r["features"], f"{r['rate']:.1f}",
            *(f"{r[key]:.1f}" for key in ("p50_ms", "p95_ms", "p99_ms")), f"{r['contract_s'] * 1e3:g}",
        )
        for r in rows
    ]  # fmt: skip
    table("From capture to features", columns, shown)
    proposals = [r for r in rows if r["proposed_s"] is not None]
    if proposals:
        say(
            "Write into the contract before training (p95: nineteen of twenty times the robot has at least the "
            "image that training has paired):"
        )
    for r in proposals:
        say(f"  - name: {r['camera']}\n    latency: {r['proposed_s']:.3f}")
