"""The node `qgf_trial`: what a trial needs of a running `qgf`, and the operator's topic."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.client import Client
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from qgf_ros.control.supervisor import State
from qgf_ros.errors import PolicyRefused, QgfError, UsageError
from qgf_ros.files.share import find_policy
from qgf_ros.policy.folder import load_policy
from qgf_ros.ros import qos
from qgf_ros.ros.conversions import PolicyInfo, Status
from qgf_ros.ros.lean import EnduringExecutor, LeanNode
from qgf_ros.ros.trial_bag import AdaptiveSubscription, BagRecorder
from qgf_ros.ros.trial_guard import Guard
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.messages import message_type
from qgf_ros.spaces.messages.base import SchemaError
from qgf_ros.trial.keys import WORDS
from qgf_ros.trial.link import View
from qgf_ros.trial.record import Outcome
from qgf_ros.trial.verdict import Judge

ANSWER = 2.0  # s for a service
STARTING = 3.0  # s for the state to be complete
DISCOVERY = 10.0  # s for the node to be heard
OTHERS = 1.0  # s for another trial to be heard of
MOST_WORDS = 16  # of an operator, that nobody has asked for yet, and letters of one


class RobotLink:
    """See `qgf_ros.trial.link.Link`."""

    def __init__(
        self, of: str, scene: str = "", interrupted: Callable[[], bool] = lambda: False
    ) -> None:
        """Finds the node `of` (its full name). scene: a Trigger service that puts the scene back.

        Raises UsageError where the node is not there, or is not ready to be enabled; while it waits
        at the start, KeyboardInterrupt as soon as `interrupted` says so.
        """
        self.of, self._interrupted = of, interrupted
        namespace = of.rpartition("/")[0]
        self.node = LeanNode(
            "qgf_trial", namespace=namespace or None, start_parameter_services=False
        )
        self._executor = EnduringExecutor(lambda error: None)  # as if it had not come
        self._executor.add_node(self.node)
        self._status: Status | None = None
        self._heard_at = self._holds = 0.0
        self._info: PolicyInfo | None = None
        self._words: list[str] = []
        self._judge: Judge | None = None
        self._armed = False
        self._error: Exception | None = None  # of a callback
        self._guard: Guard | None = None
        self.recorder: BagRecorder | None = None
        self._outcome_subscriptions: list[AdaptiveSubscription] = []
        self._needed: set[str] = set()  # topics that somebody has to publish
        create = self.node.create_client
        self._enable: Client = create(SetBool, f"{of}/enable")
        self._reset: Client = create(Trigger, f"{of}/reset")
        self._set: Client = create(SetParameters, f"{of}/set_parameters")
        self._get: Client = create(GetParameters, f"{of}/get_parameters")
        self._scene: Client | None = create(Trigger, scene) if scene else None
        self._state = self.node.create_publisher(String, "~/state", qos.LATCHED)
        subscribe = self.node.create_subscription
        subscribe(Status, f"{of}/status", self._on_status, qos.REPORT)
        subscribe(PolicyInfo, f"{of}/policy_info", self._on_info, qos.LATCHED)
        subscribe(String, "~/operator", self._on_word, qos.REPORT)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="qgf-trial", daemon=True)
        self._thread.start()
        try:
            self._find()
        except BaseException:
            self.close()
            raise

    def _find(self) -> None:
        until = time.monotonic() + DISCOVERY
        clients = [c for c in (self._enable, self._reset, self._set, self._get, self._scene) if c]
        while True:
            missing = [c.srv_name for c in clients if not c.service_is_ready()]
            missing += [f"{self.of}/status"] if self._status is None else []
            missing += [f"{self.of}/policy_info"] if self._info is None else []
            if not missing:
                break
            if self._status is not None and self._status.state in (
                State.UNCONFIGURED, State.INACTIVE, State.SHUTDOWN,
            ):  # fmt: skip
                break
            if time.monotonic() > until:
                raise UsageError(
                    f"{self.of} is not heard: no {', '.join(missing)} for {DISCOVERY:g} s; start the "
                    "node, compare --node and ROS_DOMAIN_ID with `ros2 node list`"
                )
            self._pause()
        until = time.monotonic() + STARTING
        while (view := self.view()).state is State.WAITING and time.monotonic() < until:
            self._pause()
        why = f"{view.reason} {view.detail}".strip()
        if view.state is State.FAULT:
            raise UsageError(f"{self.of} is in FAULT ({why}); make the robot safe and call ~/reset")
        if view.enabled or view.state in (State.RUN, State.HOLD):
            raise UsageError(
                f"{self.of} is enabled ({view.state.name}); a trial begins with a robot that stands: "
                "call ~/enable with false, and start the node without enable_on_start"
            )
        if view.state is not State.READY:
            raise UsageError(f"{self.of} is {view.state.name}, not READY: {why or 'activate it'}")
        until = time.monotonic() + OTHERS
        while not (other := self._other_trial()) and time.monotonic() < until:
            self._pause()
        if other:
            raise UsageError(f"{other}; end it first, or give each node a namespace of its own")
        values = self.parameters("use_sim_time", "policy", "guidance.slew", "beta")
        self.simulated, self.policy, self.slew, self.beta_before = values
        if self.simulated:
            self.node.set_parameters([Parameter("use_sim_time", Parameter.Type.BOOL, True)])

    def _pause(self) -> None:
        if self._interrupted():
            raise KeyboardInterrupt
        time.sleep(0.01)

    def _other_trial(self) -> str:
        """One word of an operator would start both."""
        topic = self._state.topic_name
        others = self.node.count_publishers(topic) > 1
        return f"another trial is there, it publishes {topic} too" if others else ""

    @property
    def info(self) -> PolicyInfo:
        assert self._info is not None
        return self._info

    def contract(self, policy: str) -> Contract:
        """Of the policy that the node runs, from its folder: `policy`, or where the node has it.

        Raises PolicyRefused or UsageError where it is another one, or the node is remapped.
        """
        where = policy or self.policy
        found = load_policy(find_policy(where))
        if found.sha256 != self.info.sha256:
            raise PolicyRefused(
                f"{where} is {found.sha256[:12]}, {self.of} runs {self.info.name} "
                f"({self.info.sha256[:12]}); give its folder by --policy, or use --no-record"
            )
        resolved = {self.node.resolve_topic_name(o.topic) for o in found.contract.observations}
        until = time.monotonic() + DISCOVERY
        while strange := sorted(resolved - self._heard_by_node()):
            if time.monotonic() > until:
                raise UsageError(
                    f"{self.of} does not listen on {', '.join(strange)}, as its contract says: it was "
                    "remapped; a bag would not be the contract's. Use --no-record"
                )
            self._pause()
        return found.contract

    def _heard_by_node(self) -> set[str]:
        """Topics, as far as they were discovered."""
        namespace, _, name = self.of.rpartition("/")
        where = name, namespace or "/"
        if where not in self.node.get_node_names_and_namespaces():  # later than its topics
            return set()
        return {topic for topic, _ in self.node.get_subscriber_names_and_types_by_node(*where)}

    def record(self, contract: Contract) -> None:
        self.recorder = BagRecorder(self.node, contract, self.of, self.simulated)
        self._needed |= {a.topic for a in contract.actions}  # by the node, or by a gate

    def judge_by_topic(self, contract: Contract) -> None:
        """The contract's outcome topics say how an episode ends. Raises UsageError: it has none."""
        self._judge = Judge(contract)
        if not self._judge.sources:
            raise UsageError("the contract has no success and no failure topic; use --verdict key")
        self._needed |= {s.topic for s in self._judge.sources.values()}
        self._outcome_subscriptions = [
            AdaptiveSubscription(
                self.node, s.type, s.topic, partial(self._on_outcome, name, s), raw=False
            )
            for name, s in self._judge.sources.items()
        ]

    def start_guard(self) -> None:
        """Raises QgfError where it does not come up: nothing moves without it."""
        self._guard = Guard(self._enable.srv_name, self._interrupted)

    # The node.

    def view(self) -> View:
        s = self._status
        assert s is not None
        return View(
            state=State(s.state),
            enabled=s.enabled,
            beta=s.beta,
            policy_sha256=s.policy_sha256,
            reason=s.reason,
            detail=s.detail,
            age=time.monotonic() - self._heard_at,
            holds=int(self._holds),
        )

    def trouble(self) -> str:
        silent = sorted(t for t in self._needed if not self.node.count_publishers(t))
        nobody = f"nobody publishes {', '.join(silent)}" if silent else ""
        return self._other_trial() or nobody

    def now(self) -> float:
        return self.node.get_clock().now().nanoseconds * 1e-9

    def beat(self) -> None:
        if self._error is not None:
            raise QgfError(f"the trial's own callback failed: {self._error!r}")
        if self._guard is None:
            raise QgfError("nothing moves without a guard")
        self._guard.beat()

    def set_beta(self, beta: float) -> None:
        value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=beta)
        asked = SetParameters.Request(parameters=[ParameterMessage(name="beta", value=value)])
        answer = self._call(self._set, asked).results[0]
        if not answer.successful:
            raise UsageError(f"{self.of} refuses a beta: {answer.reason}")

    def enable(self, on: bool) -> str:
        if on and self._judge is not None:
            self._judge.begin()
        self._armed = on
        if not on and self.recorder is not None:
            self.recorder.cut()
        if on and self._guard is not None:
            self._guard.arm()
        answer = self._call(self._enable, SetBool.Request(data=on))
        if self._guard is not None and not (on and answer.success):
            self._guard.rest()
        return "" if answer.success else answer.message

    def reset(self) -> str:
        answer = self._call(self._reset, Trigger.Request())
        return "" if answer.success else answer.message

    def reset_scene(self) -> Callable[[], str | None] | None:
        if self._scene is None:
            return None
        future = self._scene.call_async(Trigger.Request())

        def answer() -> str | None:
            if not future.done():
                return None
            if (told := future.result()) is None:
                return str(future.exception())
            return "" if told.success else told.message or "refused"

        return answer

    def words(self) -> list[str]:
        said, self._words = self._words, []
        return said

    def judged(self) -> Outcome | None:
        return self._judge.verdict if self._judge is not None else None

    def say(self, phase: str, episode: int) -> None:
        self._state.publish(String(data=f"{phase} {episode}"))

    def begin_bag(self, path: Path) -> None:
        for subscription in self._outcome_subscriptions:
            subscription.look()
        if self.recorder is not None:
            self.recorder.begin(path)

    def unheard(self) -> list[str]:
        return self.recorder.unheard() if self.recorder is not None else []

    def bag_seconds(self) -> float:
        return self.recorder.seconds() if self.recorder is not None else 0.0

    def began_anew(self) -> bool:
        return self.recorder is not None and self.recorder.began_anew

    def end_bag(self) -> None:
        if self.recorder is not None:
            self.recorder.end(judged=self.judged() is not None)

    def parameters(self, *names: str) -> list[Any]:
        fields = {1: "bool_value", 2: "integer_value", 3: "double_value", 4: "string_value"}
        values = self._call(self._get, GetParameters.Request(names=list(names))).values
        unset = [name for name, v in zip(names, values) if v.type not in fields]
        if unset or len(values) < len(names):
            raise UsageError(
                f"{self.of} has no {', '.join(unset or names)} among its parameters; is it a qgf_node?"
            )
        return [getattr(v, fields[v.type]) for v in values]

    def close(self) -> None:
        if self._guard is not None:
            self._guard.close()
        self._ending.set()
        self._thread.join(timeout=ANSWER)
        self._executor.shutdown(timeout_sec=ANSWER)
        self.node.destroy_node()

    # Messages in, in the executor's thread.

    def _on_status(self, msg: Status) -> None:
        if State.said(msg.state) is None:  # as if it had not come: then the node is silent
            return
        stopped = (State.HOLD, State.FAULT)
        if msg.state in stopped and (self._status is None or self._status.state not in stopped):
            self._holds += 1
        self._heard_at, self._status = time.monotonic(), msg

    def _on_info(self, msg: PolicyInfo) -> None:
        self._info = msg

    def _on_word(self, msg: String) -> None:
        word = msg.data[:MOST_WORDS].strip().lower()
        if word in WORDS and len(self._words) < MOST_WORDS:
            self._words.append(word)

    def _on_outcome(self, name: str, source: Any, msg: Any, received: int) -> None:
        if self._judge is None or not self._armed:
            return
        stamp = self.node.get_clock().now().nanoseconds
        with contextlib.suppress(SchemaError):  # a message that does not fit says nothing
            values = message_type(source.type).decode(msg, source.fields, source.names)
            if source.stamp == "header":
                stamp = msg.header.stamp.sec * 10**9 + msg.header.stamp.nanosec or stamp
            self._judge.hear(name, stamp, values)

    def _call(self, client: Any, request: Any) -> Any:
        future = client.call_async(request)
        until = time.monotonic() + ANSWER
        while not future.done():
            if time.monotonic() > until:
                client.remove_pending_request(future)
                raise QgfError(f"{client.srv_name} has not answered for {ANSWER:g} s")
            time.sleep(0.002)
        if future.result() is None:
            raise QgfError(f"{client.srv_name}: {future.exception()}")
        return future.result()

    def _spin(self) -> None:
        while not self._ending.is_set():
            try:
                self._executor.spin_once(timeout_sec=0.05)
            except Exception as error:
                self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._error = error  # the robot must still be stopped through the executor's thread


@contextlib.contextmanager
def connected(of: str, scene: str, interrupted: Callable[[], bool]) -> Iterator[RobotLink]:
    """A link on a context of its own; signals stay with the caller."""
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        link = RobotLink(of, scene, interrupted)
        try:
            yield link
        finally:
            link.close()
    finally:
        rclpy.try_shutdown()
