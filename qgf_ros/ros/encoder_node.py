"""The node `qgf_encoder`: a policy's cameras to features, so that no pixel enters the control process.

The executor's thread only keeps the newest message of each camera; a thread per camera decodes and encodes
it, and publishes `qgf_ros/Features` with the stamp of the capture. What cannot be used is published too, as a
reason: the control node holds by it. `~/load_policy` takes another policy's encoders beside those in use,
and which policy drives is heard on the node's `policy_info`: until then both are encoded.
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.qos import QoSProfile, ReliabilityPolicy

from qgf_ros.control.latency import Latency
from qgf_ros.control.settings import BY_NAME
from qgf_ros.control.spec import Spec
from qgf_ros.errors import PolicyRefused, QgfError, UsageError
from qgf_ros.files.share import find_policy
from qgf_ros.files.strict_yaml import clipped
from qgf_ros.images.encoder import CameraEncoder
from qgf_ros.images.raw import BadImage
from qgf_ros.policy.folder import Policy
from qgf_ros.policy.vetting import vetted_policy
from qgf_ros.ros import qos
from qgf_ros.ros.conversions import LoadPolicy, PolicyInfo, header, make, nanoseconds, ros_type
from qgf_ros.ros.lean import LeanNode
from qgf_ros.ros.log import ThrottledLog
from qgf_ros.ros.parameters import Parameters
from qgf_ros.ros.policy_swap import find_below
from qgf_ros.ros.process import STOPPING, exit_with_parent, run
from qgf_ros.ros.worker import Worker
from qgf_ros.spaces.observations.source import ObservationSource

LOOK = 0.25  # s, how often publishers are looked for, and a silent camera is said to be silent
MISSING = 0.5  # s without an image until it is
BY_TURNS = 2.0  # s within which two publishers are heard, the first one again: it was not replaced
UNSTAMPED = "the image has no stamp: its arrival counts"
NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
NEWEST_BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
NANOSECONDS = 1_000_000_000

PARAMETERS = (
    BY_NAME["policy"],
    BY_NAME["policies"],
    BY_NAME["device"],
    Spec("threads", int, 1, "Threads of ONNX Runtime for each camera.", "", 1, 64),
    Spec("control_node", str, "qgf", "The node that the features are for, whose ~/policy_info says what drives."),
    BY_NAME["exit_with_parent"],
)  # fmt: skip


@dataclass
class _Counts:
    """Of one camera, since the last look."""

    heard: int = 0
    dropped: int = 0  # came while another was encoded, and was replaced by a newer one
    refused: int = 0
    unstamped: int = 0
    encode: Latency = field(default_factory=Latency)
    age: Latency = field(default_factory=Latency)  # from capture until the features were sent


class _Publishers:
    """Whether the images of one topic come from several publishers by turns: the policy would see now one
    place, now another. A driver that was started anew is none of two, whatever discovery remembers."""

    def __init__(self) -> None:
        self.several = False  # as the graph has it
        self._heard: dict[bytes, float] = {}  # by publisher [s, steady]
        self._last, self._until = b"", 0.0

    def heard(self, publisher: Any, now: float) -> None:
        """publisher: as rclpy's message info has it; None where this release does not say."""
        if publisher is None:
            if self.several:
                self._until = now + BY_TURNS
            return
        who = repr(publisher).encode()
        if who != self._last and now - self._heard.get(who, -BY_TURNS) < BY_TURNS:
            self._until = now + BY_TURNS
        self._heard = {w: at for w, at in self._heard.items() if now - at < BY_TURNS} | {who: now}
        self._last = who

    def by_turns(self, now: float) -> bool:
        return now < self._until


class _Camera:
    """One camera: its subscription, its thread, and the encoders of the policies that are in use."""

    def __init__(self, node: EncoderNode, source: ObservationSource) -> None:
        self.source, self.counts = source, _Counts()
        self.encoders: tuple[CameraEncoder, ...] = ()
        self.problem = ""  # as it was last said
        self.heard_at = time.monotonic()
        self._node, self._wake = node, threading.Condition()
        self._newest: tuple[Any, int] | None = None  # and its arrival [ns]
        self._publishers = _Publishers()
        self._known: list[str] = []  # names of the nodes that publish its images
        self._publisher = node.node.create_publisher(
            ros_type("qgf_ros/Features"), source.heard.topic, qos.REPORT
        )
        self._subscription: Any = None
        self._reliable = True
        self._ended = False
        self._thread = threading.Thread(target=self._work, name=f"qgf-camera-{source.name}", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Subscribes with what the publishers offer, and says where nothing comes."""
        node = self._node.node
        offered = node.get_publishers_info_by_topic(node.resolve_topic_name(self.source.topic))
        self._known = sorted({f"{o.node_namespace.rstrip('/')}/{o.node_name}" for o in offered})
        self._publishers.several = len(offered) > 1
        reliable = all(o.qos_profile.reliability == ReliabilityPolicy.RELIABLE for o in offered)
        if offered and (self._subscription is None or reliable != self._reliable):
            if self._subscription is not None:
                node.destroy_subscription(self._subscription)
            self._reliable = reliable
            self._subscription = node.create_subscription(
                ros_type(self.source.type), self.source.topic, self._on_image,
                NEWEST if reliable else NEWEST_BEST_EFFORT,
            )  # fmt: skip
        if time.monotonic() - self.heard_at > MISSING:
            nobody = "" if offered else ", and nobody publishes it"
            self.refuse("IMAGE_MISSING", f"no image on {self.source.topic}{nobody}", 0)

    def close(self) -> None:
        with self._wake:
            self._ended = True
            self._wake.notify()
        self._thread.join(1.0)

    def _on_image(self, msg: Any, info: Any) -> None:
        self.heard_at = time.monotonic()
        self._publishers.heard(info.get("publisher_gid"), self.heard_at)
        self.counts.heard += 1
        arrival = self._node.node.get_clock().now().nanoseconds
        with self._wake:
            if self._newest is not None:
                self.counts.dropped += 1
            self._newest = msg, arrival
            self._wake.notify()

    def _work(self) -> None:
        while True:
            with self._wake:
                while self._newest is None and not self._ended:
                    self._wake.wait()
                if self._ended:
                    return
                newest, self._newest = self._newest, None
            if newest is None:
                continue
            try:
                self._encode(*newest)
            except Exception as error:  # whatever arrives: the next image may be sound
                self.refuse("IMAGE_DAMAGED", f"{type(error).__name__}: {clipped(error)}", 0)

    def _encode(self, msg: Any, arrival: int) -> None:
        stamp = nanoseconds(msg.header.stamp)
        if self._publishers.by_turns(time.monotonic()):
            who = ", ".join(self._known) or "nodes that are not known"
            self.refuse("IMAGE_CONFLICT", f"several cameras by turns, of {who}; stop all but one", stamp)
            return
        # An image without a stamp is as old as its arrival, as for any other topic.
        told = "" if stamp else UNSTAMPED
        self.counts.unstamped += not stamp
        for encoder in self.encoders:
            began = time.perf_counter()
            try:
                values = encoder(msg)
            except BadImage as error:
                self.refuse(error.code, str(error), stamp, encoder.policy)
                continue
            self.counts.encode.add(time.perf_counter() - began)
            self._say(stamp or arrival, encoder.policy, "", told, values.tolist())
            self.problem = ""
        now = self._node.node.get_clock().now().nanoseconds
        if stamp:
            self.counts.age.add((now - stamp) / NANOSECONDS)

    def refuse(self, code: str, detail: str, stamp: int, policy: str = "") -> None:
        """Says that there are no features, and why; to all policies where none is named."""
        detail = clipped(detail)
        self.counts.refused += 1
        self.problem = f"{code}: {detail}"
        self._node.log.warning(f"{self.source.name} {code}", f"{self.source.topic}: {detail}")
        for sha256 in [policy] if policy else [e.policy for e in self.encoders]:
            self._say(stamp, sha256, code, detail, [])

    def _say(self, stamp: int, policy: str, reason: str, detail: str, values: list[float]) -> None:
        stamp = stamp or self._node.node.get_clock().now().nanoseconds
        self._publisher.publish(
            make(
                "qgf_ros/Features", header=header(stamp), camera=self.source.name, policy=policy,
                reason=reason, detail=detail, values=values,
            )
        )  # fmt: skip


class EncoderNode:
    """Subscribes to cameras, publishes features; see the tables in README.md."""

    def __init__(self) -> None:
        self.node = LeanNode("qgf_encoder")
        self.done = threading.Event()
        self.error: Exception | None = None
        self.log = ThrottledLog(self.node.get_logger())
        self._parameters = Parameters(self.node, lambda values: None, PARAMETERS).values
        if self._parameters["exit_with_parent"]:
            exit_with_parent()
        self._cameras: dict[str, _Camera] = {}
        self._policies: list[Policy] = []  # the last one is the one that was asked for last
        self._driving = ""
        self._diagnostics = self.node.create_publisher(DiagnosticArray, "/diagnostics", qos.REPORT)
        self._looked = time.monotonic()
        self._worker = Worker(self.node, "qgf-load-policy")
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.node.create_timer(LOOK, self._look, clock=steady)
        self.node.create_timer(1.0, self._diagnose, clock=steady)
        self.node.create_service(
            LoadPolicy, "~/load_policy", self._on_load, callback_group=ReentrantCallbackGroup()
        )
        info = f"{self._parameters['control_node']}/policy_info"
        self.node.create_subscription(PolicyInfo, info, self._on_info, qos.LATCHED)

    def start(self) -> str:
        policy = self._vetted(find_policy(self._parameters["policy"]))
        if not policy.cameras:
            raise UsageError(
                f"{policy.folder} has no cameras: qgf_encoder is not needed for it; do not start it"
            )
        for source in policy.contract.recorded.cameras:
            self._cameras[source.name] = _Camera(self, source)
        self._take(policy, self._encoders(policy))
        return "READY"

    def raised(self, error: Exception) -> None:
        """Whatever it is sent: it goes on."""
        self.log.error("CALLBACK", f"a callback failed: {error!r}")

    def close(self) -> None:
        self._worker.close(1.0)
        for camera in self._cameras.values():
            camera.close()

    def _vetted(self, folder: Path) -> Policy:
        policy: Policy = vetted_policy(folder, stopping=STOPPING.is_set, cameras=True)
        return policy

    def _encoders(self, policy: Policy) -> dict[str, CameraEncoder]:
        p = self._parameters
        return {name: CameraEncoder(policy, name, p["device"], p["threads"]) for name in policy.cameras}

    def _take(self, policy: Policy, encoders: dict[str, CameraEncoder]) -> None:
        """From now on this policy's features are made too; of those before it, of the driving one."""
        kept = {policy.sha256, self._driving}
        self._policies = [p for p in self._policies if p.sha256 in kept - {policy.sha256}] + [policy]
        for name, camera in self._cameras.items():
            others = tuple(e for e in camera.encoders if e.policy in kept - {policy.sha256})
            camera.encoders = (*others, encoders[name])  # one assignment: its thread sees one or the other

    def _on_info(self, msg: PolicyInfo) -> None:
        """Which policy drives: others are not encoded any more, but for one that was loaded since."""
        self._driving = msg.sha256
        if all(p.sha256 != msg.sha256 for p in self._policies):
            return  # the node refuses what we send, and says so
        self._policies = [p for p in self._policies if p.sha256 == msg.sha256]
        for camera in self._cameras.values():
            camera.encoders = tuple(e for e in camera.encoders if e.policy == msg.sha256)

    async def _on_load(
        self, request: LoadPolicy.Request, response: LoadPolicy.Response
    ) -> LoadPolicy.Response:
        current = self._policies[-1]
        try:
            policy, encoders = await self._worker.do(lambda: self._loaded(current, request.name))
            self._take(policy, encoders)
            response.success, response.sha256 = True, policy.sha256
            response.message = f"encoding for {policy.name} ({policy.sha256[:12]})"
        except QgfError as error:
            response.message, response.sha256 = clipped(error, 2000), current.sha256
        return response

    def _loaded(self, current: Policy, name: str) -> tuple[Policy, dict[str, CameraEncoder]]:
        """In the worker: images are encoded meanwhile."""
        policy = self._vetted(find_below(self._parameters["policies"], current, name))
        sources = {o.name: o for o in policy.contract.recorded.cameras}
        known = {name: camera.source for name, camera in self._cameras.items()}
        if sources != known:
            raise PolicyRefused(
                f"{name} has other cameras ({', '.join(sources) or 'none'}) than {', '.join(known)}, or looks at "
                "them otherwise; start qgf_encoder with it"
            )
        return policy, self._encoders(policy)

    def _look(self) -> None:
        for camera in self._cameras.values():
            camera.look()

    def _diagnose(self) -> None:
        now = time.monotonic()
        seconds, self._looked = now - self._looked, now
        statuses = [_diagnosis(camera, seconds) for camera in self._cameras.values()]
        stamp = self.node.get_clock().now().nanoseconds
        self._diagnostics.publish(DiagnosticArray(header=header(stamp), status=statuses))
        for camera in self._cameras.values():
            camera.counts = _Counts()


def _diagnosis(camera: _Camera, seconds: float) -> DiagnosticStatus:
    """Rate, times and drops of a camera over the last second."""
    c = camera.counts
    encode, age = c.encode.percentiles_ms(), c.age.percentiles_ms()
    values = {
        "images per s": f"{c.heard / seconds:.1f}",
        "replaced by a newer one before they were encoded": f"{c.dropped}",
        "refused": f"{c.refused}",
        "without a stamp": f"{c.unstamped}",
        "decode and encode, p50 [ms]": f"{encode[0]:.1f}",
        "decode and encode, p99 [ms]": f"{encode[1]:.1f}",
        "age of the features, p99 [ms]": f"{age[1]:.1f}",
        "contract's latency [ms]": f"{camera.source.latency * 1e3:.1f}",
    }
    return DiagnosticStatus(
        level=DiagnosticStatus.ERROR if camera.problem else DiagnosticStatus.OK,
        name=f"qgf_encoder: {camera.source.name}",
        message=camera.problem or "features are published",
        hardware_id=camera.source.topic,
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )


def main() -> int:
    """Entry point of `ros2 run qgf_ros qgf_encoder`."""
    return run(EncoderNode, "qgf_encoder")


if __name__ == "__main__":
    sys.exit(main())
