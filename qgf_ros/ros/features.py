"""The control node's side of `qgf_encoder`: which of its messages count, and that it follows a swap."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node

from qgf_ros.control.core import ControlCore
from qgf_ros.control.reasons import OF_IMAGES, Code
from qgf_ros.errors import PolicyRefused
from qgf_ros.files.strict_yaml import clipped, shown
from qgf_ros.ros.conversions import LoadPolicy
from qgf_ros.spaces.observations.source import FEATURES, ObservationSource

PATIENCE = 60.0  # s for the encoder to load a policy, which a child process looks at first
STEP = 0.05  # s, how soon a wish to stop is noticed
SILENT = 2.0  # s: it speaks twice a second whatever the cameras do, and discovery remembers a dead one


class Features:
    """Features of cameras. `take` runs in the executor's thread, `prepare` in a worker's."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._client: Any = None
        self._good: dict[str, int] = {}  # camera -> receipt of the last that counted [ns]
        self._heard = -math.inf  # steady time of the last message of any kind

    def take(self, core: ControlCore, source: ObservationSource, msg: Any, receipt: int) -> bool:
        """Whether a message is an observation of the policy that drives. Where it is none, the reason is
        said as soon as the last good one is too old: until then the robot goes on by that, as training did."""
        self._heard = time.monotonic()
        late = receipt - self._good.get(source.name, 0) > core.policy.contract.max_age(source) * 1e9
        if msg.policy != core.policy.sha256:
            if late:
                said = f"features are of policy {shown(msg.policy, 12)}, and {core.policy.sha256[:12]} drives"
                core.assembler.reject(source.name, "FEATURES_POLICY", said)
            return False
        if msg.reason:
            if late:
                code: Code = next((c for c in OF_IMAGES if c == msg.reason), "IMAGE_DAMAGED")
                core.assembler.reject(source.name, code, clipped(msg.detail))
            return False
        self._good[source.name] = receipt
        return True

    @property
    def _silent(self) -> bool:
        return time.monotonic() - self._heard > SILENT

    def prepare(self, name: str, stopping: Callable[[], bool]) -> None:
        """The encoder makes features for that policy too, from now on.

        Raises PolicyRefused where it is not there, or cannot.
        """
        if self._client is None:
            self._client = self._node.create_client(
                LoadPolicy, f"{FEATURES}/load_policy", callback_group=ReentrantCallbackGroup()
            )
        absent = PolicyRefused(
            f"{name} has cameras, and no {FEATURES} is there to encode them; start it (`ros2 run qgf_ros "
            "qgf_encoder`)"
        )
        if self._silent or not self._client.wait_for_service(timeout_sec=5.0):
            raise absent
        done = threading.Event()
        future = self._client.call_async(LoadPolicy.Request(name=name))
        future.add_done_callback(lambda _: done.set())
        waited = 0.0
        while not done.wait(STEP):
            waited += STEP
            if self._silent:
                raise absent
            if stopping() or waited > PATIENCE:
                raise PolicyRefused(f"{name}: {FEATURES} has not answered within {waited:.0f} s")
        answer: Any = future.result()
        if answer is None or not answer.success:
            why = clipped(answer.message, 1000) if answer is not None else "no answer"
            raise PolicyRefused(f"{FEATURES} does not take {name}: {why}")
