"""The ears of `qgf watch`: a node that publishes nothing and asks for parameters, no more.

It runs on the robot, beside the control loop. Hence messages wait in their queues until somebody
looks: waking up for each of fifty per second takes three times as long as taking them four times.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import rclpy
from rcl_interfaces.msg import ParameterEvent, ParameterType
from rcl_interfaces.srv import GetParameters
from rclpy.context import Context
from rclpy.exceptions import InvalidTopicNameException
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, qos_profile_parameter_events
from rclpy.signals import SignalHandlerOptions
from rclpy.validate_full_topic_name import validate_full_topic_name

from qgf_ros.errors import UsageError
from qgf_ros.ros import qos
from qgf_ros.ros.conversions import PolicyInfo, QValues, Status
from qgf_ros.ros.lean import LeanNode
from qgf_ros.signals import Flag
from qgf_ros.watch.heard import Heard

NUMBERS = {
    ParameterType.PARAMETER_INTEGER: "integer_value",
    ParameterType.PARAMETER_DOUBLE: "double_value",
}
PARAMETERS = ("beta", "limits_scale", "num_candidates")
ANSWERED = 2.0  # s, after which a question is put once more
LONGEST_WAIT = 2.0  # s in a queue: what is longer is a clock that was set
QUEUE = 200  # messages between two looks, at most
STATUS_TYPE = "qgf_ros/msg/Status"


class Listener:
    """Fills a `Heard` from the wire. Use as a context manager.

    Raises UsageError where the name is none, or ROS cannot start.
    """

    def __init__(self, heard: Heard) -> None:
        name = heard.node.name
        try:
            validate_full_topic_name(name)
        except InvalidTopicNameException as error:
            raise UsageError(f"{name!r} is no name of a node; {error}") from None
        self.heard = heard
        self._context = Context()
        rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = LeanNode(
            f"qgf_watch_{os.getpid()}",
            context=self._context,
            enable_rosout=False,
            start_parameter_services=False,
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        reports = QoSProfile(depth=QUEUE, reliability=qos.REPORT.reliability)
        self._ears = [
            self._ear(Status, f"{name}/status", heard.status, reports),
            self._ear(Status, f"{heard.gate.name}/status", heard.gate.status, reports),
            self._ear(QValues, f"{name}/q_values", heard.q_values, reports),
            self._ear(PolicyInfo, f"{name}/policy_info", heard.policy_info, qos.LATCHED),
            self._ear(
                ParameterEvent, "/parameter_events", self._on_event, qos_profile_parameter_events
            ),
        ]
        self._parameters: Any = self._node.create_client(GetParameters, f"{name}/get_parameters")
        self._answer: Any = None  # future of the last question
        self._ask, self._asked_at = True, 0.0

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: Any) -> None:
        self._executor.shutdown(timeout_sec=1.0)
        self._node.destroy_node()
        self._context.try_shutdown()

    def listen(self, until: float, stop: Flag) -> None:
        """Waits for a steady time, or until told to stop, and hears what came meanwhile."""
        self._look_around()
        stop.wait(max(0.0, until - time.monotonic()))
        for subscription in self._ears:
            with subscription.handle:
                for _ in range(QUEUE):  # whoever floods a topic does not keep us here
                    if (
                        taken := subscription.handle.take_message(subscription.msg_type, False)
                    ) is None:
                        break
                    subscription.callback(*taken)
        self._hear_answer()

    def _ear(self, kind: Any, topic: str, take: Callable[[float, Any], None], profile: Any) -> Any:
        def on_message(msg: Any, info: Any) -> None:
            now, received = time.monotonic(), info["received_timestamp"]
            waited = (time.time_ns() - received) * 1e-9 if received else 0.0  # not all RMWs say it
            take(now - min(max(waited, 0.0), LONGEST_WAIT), msg)

        return self._node.create_subscription(kind, topic, on_message, profile)

    def _on_event(self, now: float, event: Any) -> None:
        self._ask |= event.node == self.heard.node.name

    def _look_around(self) -> None:
        """Asks for parameters where they may be others than those known; looks who is there."""
        heard, now = self.heard, time.monotonic()
        heard.gate_announced = self._node.count_publishers(f"{heard.gate.name}/status") > 0
        if heard.node.life(now) not in ("live", "stale"):
            heard.asked, self._ask = {}, True
            own = {heard.node.name, heard.gate.name}
            heard.others = sorted(
                {
                    topic.removesuffix("/status")
                    for topic, kinds in self._node.get_topic_names_and_types()
                    if STATUS_TYPE in kinds and topic.endswith("/status")
                }
                - own
            )
        elif self._asks(now) and self._parameters.service_is_ready():
            self._ask, self._asked_at = False, now
            if self._answer is not None:
                self._parameters.remove_pending_request(self._answer)
            request = GetParameters.Request(names=list(PARAMETERS))
            self._answer = self._parameters.call_async(request)

    def _asks(self, now: float) -> bool:
        """Whether to ask; once more where an answer got lost."""
        return self._ask or (self._answer is not None and now - self._asked_at > ANSWERED)

    def _hear_answer(self) -> None:
        """Of the parameters those that are numbers; what is not set is left out."""
        for _ in range(len(self._ears) + 1):  # a turn of the executor is one callback, of any of us
            if self._answer is None:
                return
            if self._answer.done():
                values = zip(PARAMETERS, self._answer.result().values)
                self.heard.asked = {
                    n: getattr(v, NUMBERS[v.type]) for n, v in values if v.type in NUMBERS
                }
                self._answer = None
            else:
                self._executor.spin_once(timeout_sec=0.0)
