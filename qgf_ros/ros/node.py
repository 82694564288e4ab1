"""The node `qgf`: copies messages into the control core and the core's decisions out of it.

The executor's thread only copies; a control thread ticks the core on absolute deadlines of the
control clock; the sampler runs in a third. Lifecycle: configure loads the policy and warms up,
activate subscribes and begins to tick. Nothing moves until ~/enable.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger

from qgf_ros.control.chunk import Chunk
from qgf_ros.control.core import ESTOP, ControlCore, TickResult
from qgf_ros.control.gate import Candidate, Output
from qgf_ros.control.inference import ThreadInference
from qgf_ros.control.reasons import Problem
from qgf_ros.control.sampling import time_sampler
from qgf_ros.control.settings import resolve
from qgf_ros.control.supervisor import State
from qgf_ros.errors import QgfError
from qgf_ros.files.share import find_policy
from qgf_ros.guidance.protocols import Sampler
from qgf_ros.guidance.registry import make_sampler
from qgf_ros.policy.folder import Policy
from qgf_ros.policy.vetting import Use, vetted_policy
from qgf_ros.ros import qos
from qgf_ros.ros.control_loop import ControlLoop
from qgf_ros.ros.conversions import (
    Command,
    PolicyInfo,
    QValues,
    Tick,
    command_message,
    policy_message,
    q_message,
    ros_type,
    tick_message,
)
from qgf_ros.ros.features import Features
from qgf_ros.ros.graph_monitor import GraphMonitor
from qgf_ros.ros.lean import LeanLifecycleNode
from qgf_ros.ros.outside_gate import OutsideGate
from qgf_ros.ros.parameters import Parameters, Values
from qgf_ros.ros.policy_swap import PolicySwap
from qgf_ros.ros.process import STOPPING, exit_with_parent, run
from qgf_ros.ros.reports import Reports
from qgf_ros.ros.robot_commands import DELIVERY, RobotCommands, bring_to_rest
from qgf_ros.ros.views import Views
from qgf_ros.spaces.messages import message_type
from qgf_ros.spaces.messages.base import SchemaError
from qgf_ros.spaces.messages.joints import Joints, Others
from qgf_ros.spaces.observations.source import FEATURES_TYPE, ObservationSource

STATUS_PERIOD = 0.1  # s, steady time


class QgfNode(LeanLifecycleNode):
    """Subscribes to state, publishes commands; see the tables in README.md."""

    def __init__(self) -> None:
        super().__init__("qgf")
        self.node = self
        self.done = threading.Event()
        self.error: Exception | None = None
        self.core: ControlCore | None = None
        self._loop: ControlLoop | None = None
        self._robot: RobotCommands | None = None
        self._gate: OutsideGate | None = None
        self._state_subscriptions: list[Any] = []
        self._state = State.UNCONFIGURED  # as it was last said
        self._noted = State.UNCONFIGURED  # as it is in the control thread
        self.parameters = Parameters(self, self._on_parameters, check=self._check)
        if self.parameters.values["exit_with_parent"]:
            exit_with_parent()
        self._reports = Reports(self)
        self._transitions: deque[tuple[State, Problem | None]] = deque()  # not yet said
        self._changed = self.create_guard_condition(self._say_transitions)
        self._warnings: list[Problem] = []
        self._info_publisher = self.create_publisher(PolicyInfo, "~/policy_info", qos.LATCHED)
        self._command_publisher = self.create_publisher(Command, "~/command", qos.COMMAND)
        self._q_publisher = self.create_publisher(QValues, "~/q_values", qos.REPORT)
        self._tick_publisher = self.create_publisher(Tick, "~/ticks", qos.REPORT)
        self._views = Views(self)
        self.create_service(SetBool, "~/enable", self._on_enable)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self._features = Features(self)
        self._swap = PolicySwap(
            self,
            self.parameters,
            lambda: self.core,
            self._vet,
            self._build,
            self._announce,
            self._features.prepare,
        )
        values = self.parameters.values
        self._around = GraphMonitor(
            self,
            values["estop_required"],
            values["estop_timeout"],
            self._on_estop,
            self._on_stall,
            self._fail,
        )
        # Steady time: status goes on when a simulated clock stands still.
        self.create_timer(
            STATUS_PERIOD, self._on_timer, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        return self.parameters.set(parameter_list, super().set_parameters_atomically)

    # Life cycle.

    def start(self) -> str:
        """With autostart: to READY, or out of the process with the error's code."""
        if not self.parameters.values["autostart"]:
            self._around.started()
            return "UNCONFIGURED, waiting for a lifecycle manager"
        for trigger in (self.trigger_configure, self.trigger_activate):
            if trigger() != TransitionCallbackReturn.SUCCESS:
                raise self.error or QgfError(
                    "the lifecycle transition failed; the log above says why"
                )
        self._around.started()
        return "READY"

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._configure()
        except Exception as error:  # rclpy would swallow it
            self._release()
            return self._failed(error)
        self.error = None
        self._change_state(State.INACTIVE)
        return TransitionCallbackReturn.SUCCESS

    def _failed(self, error: Exception) -> TransitionCallbackReturn:
        self.error = error
        if not self.parameters.values["autostart"]:  # else it is the last line of the process
            self.get_logger().error(f"error[{getattr(error, 'code', 1)}]: {error!r}")
        self._publish_status()
        return TransitionCallbackReturn.FAILURE

    def _configure(self) -> None:
        values = self.parameters.values
        policy = self._vet(find_policy(values["policy"]), STOPPING.is_set, values["device"])
        settings = resolve(values, policy)
        sampler = self._build(policy, values["device"])
        timed = time_sampler(policy, sampler, settings.num_candidates)
        self.core = ControlCore(
            policy,
            ThreadInference(sampler),
            settings,
            owner=self.get_fully_qualified_name(),
            build=self._build,
            timed=timed,
        )
        self.parameters.settle("beta", settings.beta, policy.description.beta.min)
        outside = values["gate"] == "outside"
        self._robot = None if outside else RobotCommands(self, policy.contract)
        self._gate = OutsideGate(self, self.core) if outside else None
        self._around.configure(policy.contract, self._gate)
        self.core.forbidden = self._around.problem
        self._announce(policy, sampler)
        gc.collect()
        gc.freeze()  # a full collection in the control thread would cost tens of milliseconds

    def _vet(self, folder: Path, stopping: Callable[[], bool], device: str) -> Policy:
        """The policy of a folder, which another process has looked at first."""
        values = self.parameters.values
        use = Use(values["backend"], device, values["precision"], values["num_candidates"])
        policy: Policy = vetted_policy(folder, use=use, stopping=stopping)
        return policy

    def _build(self, policy: Policy, device: str) -> Sampler:
        values = self.parameters.values
        return make_sampler(
            policy, values["backend"], device, values["threads"], values["precision"]
        )

    def _announce(self, policy: Policy, sampler: Sampler) -> None:
        """What is in use from now on."""
        assert self.core is not None
        beta = self.core.settings.beta
        self._info_publisher.publish(policy_message(policy, sampler))
        self.get_logger().info(_summary(policy, sampler, beta))
        if sampler.note:
            self.get_logger().warning(f"sampler: {sampler.note}")

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._activate()
        except Exception as error:  # rclpy would swallow it
            return self._failed(error)
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._halt()
        self._release()
        self._change_state(State.UNCONFIGURED)
        return TransitionCallbackReturn.SUCCESS

    def _activate(self) -> None:
        assert self.core is not None
        contract = self.core.policy.contract
        self.core.activate(self.parameters.values["enable_on_start"])
        self._around.activate(contract)
        goal = contract.outcome.goal.observation if contract.outcome.goal else ""
        self._state_subscriptions = [
            self.create_subscription(ros_type(o.type), o.topic, partial(self._on_state, o), profile)
            for o in contract.observations
            # A goal is often said once and latched; see ~/estop.
            for profile in ((qos.STATE, qos.LATCHED) if o.name == goal else (qos.STATE,))
        ]
        period = round(contract.time.period * 1e9)
        self._loop = ControlLoop(
            self.get_clock(),
            period,
            tick=self._tick,
            missed=self.core.missed,
            jumped=self._on_clock_jump,
            stalled=self._on_clock_stopped,
            failed=self._changed.trigger,
        )
        self._change_state(State.WAITING)
        self._loop.start()

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._halt()
        self._change_state(State.INACTIVE)
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        self._change_state(State.UNCONFIGURED)
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._halt()
        self._release()
        self._change_state(State.SHUTDOWN)
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """The last command on the wire is a stop; then the state SHUTDOWN."""
        self._swap.close()
        self._halt()
        self._change_state(State.SHUTDOWN)
        self._reports.deliver(DELIVERY)
        self._release()

    def _halt(self) -> None:
        """Ends ticking and brings the robot to a hold."""
        if self._loop is None or self.core is None:
            return
        self._loop.stop()
        self._loop = None
        for subscription in self._state_subscriptions:
            self.destroy_subscription(subscription)
        self._state_subscriptions = []
        self._around.deactivate()
        core, period = self.core, self.core.policy.contract.time.period

        def now() -> int:  # a stale stamp may be ignored at the other end
            return self.get_clock().now().nanoseconds

        bring_to_rest(
            core.gate,
            lambda: core.halt(now()),
            lambda: core.stop(now()),
            lambda output: self._send(output, None, now()),
            period,
        )
        if self._robot is not None:
            self._robot.deliver()
        else:
            self._command_publisher.wait_for_all_acked(DELIVERY)

    def _release(self) -> None:
        if self.core is not None:
            self.core.close()
        self._around.release()
        for piece in (self._robot, self._gate):
            if piece is not None:
                piece.destroy()
        self.core = self._robot = self._gate = None

    # Messages in. Runs in the executor's thread and only copies.

    def _on_state(self, source: ObservationSource, msg: Any) -> None:
        core = self.core
        if core is None:
            return
        receipt = self.get_clock().now().nanoseconds
        try:
            if source.type == FEATURES_TYPE and not self._features.take(core, source, msg, receipt):
                return
            stamp = 0
            if source.stamp == "header":
                stamp = msg.header.stamp.sec * 1_000_000_000 + msg.header.stamp.nanosec
            kind = message_type(source.type)
            if source.merge and isinstance(kind, Joints):
                some, there = kind.decode_some(msg, source.fields, source.names)
                core.assembler.push_some(source.name, stamp, receipt, some, there)
                return
            values = kind.decode(msg, source.fields, source.names)
        except Others as error:
            if not source.merge:
                core.assembler.reject(source.name, "STATE_SCHEMA", str(error))
            return
        except SchemaError as error:
            core.assembler.reject(source.name, "STATE_SCHEMA", str(error))
            return
        except Exception as error:  # nothing that arrives may end the executor
            core.assembler.reject(source.name, "STATE_SCHEMA", f"{type(error).__name__}: {error}")
            return
        core.assembler.push(source.name, stamp, receipt, values)

    def _on_estop(self, problem: Problem | None) -> None:
        if self.core is not None:
            self.core.estop(problem or ESTOP)

    def _on_stall(self, problem: Problem, ask: bool) -> None:
        if self.core is not None:
            self.core.stalled(problem, ask)

    def raised(self, error: Exception) -> None:
        """A callback failed: the robot holds, and the node goes on."""
        self._around.raised(error)
        self._reports.log.error("CALLBACK", f"a callback failed: {error!r}")

    def _fail(self, error: Exception) -> None:
        self.error = error
        self.done.set()

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if self.core is None or self._loop is None:
            response.success, response.message = (
                False,
                f"the node is {self._state.name}; activate it first",
            )
            return response
        self._around.hear()
        refusal = self.core.enable(request.data)
        response.success = not refusal
        response.message = refusal or (
            "enabled" if request.data else "disabled: decelerating to a hold"
        )
        return response

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = False
        self._around.hear()
        if self.core is None:
            response.message = "not configured"
        elif refusal := self._around.reset_refusal():
            response.message = refusal
        else:
            self.core.reset()
            response.success, response.message = True, "reset; call ~/enable to move"
        return response

    def _check(self, values: Values) -> None:
        if self.core is not None:
            resolve(values, self.core.policy)

    def _on_parameters(self, values: Values) -> None:
        if self.core is not None:
            self.core.apply(resolve(values, self.core.policy))

    # The control thread.

    def _tick(self, deadline: int) -> None:
        core = self.core
        assert core is not None
        began = time.perf_counter()
        result = core.tick(deadline)
        decided = time.perf_counter()
        self._emit(result, deadline)
        if self._tick_publisher.get_subscription_count() > 0:
            self._tried(lambda: self._tick_publisher.publish(tick_message(core, result, deadline)))
        self._reports.ticked(result, began, decided)

    def _on_clock_stopped(self, now: int) -> None:
        assert self.core is not None
        self._emit(self.core.clock_stopped(now), now)

    def _emit(self, result: TickResult, deadline: int) -> None:
        assert self.core is not None
        self._send(result.output, result.candidate, deadline)
        self._note(result)
        if (sampled := result.sampled) is not None:
            self._tried(lambda: self._show(result, sampled.chunk))

    def _tried(self, report: Callable[[], None]) -> None:
        try:
            report()
        except Exception as error:  # a picture is not worth a robot that is not commanded
            self._reports.log.error("SHOW", f"a report failed: {error!r}")

    def _show(self, result: TickResult, chunk: Chunk) -> None:
        assert self.core is not None
        if self._q_publisher.get_subscription_count() > 0:
            self._q_publisher.publish(q_message(result, self.get_clock().now().nanoseconds))
        self._views.show(self.core.policy.contract, chunk)

    def _send(self, output: Output, candidate: Candidate | None, now: int) -> None:
        """To the robot what the core's gate put out, or to qgf_gate as a candidate."""
        if output.values is not None:
            self._reports.sent()
            if (foreign := self._around.foreign) is not None:
                foreign.sent(output.values)
        if self._gate is not None:
            candidate = self._gate.candidate(output, candidate, now)
        elif self._robot is not None:
            self._robot.send(output, now)
        if candidate is not None:
            self._command_publisher.publish(command_message(candidate))

    def _note(self, result: TickResult) -> None:
        """A change of state is said by the executor's thread: words take longer than commands."""
        if result.state is not self._noted:
            self._noted = result.state
            self._transitions.append((result.state, result.reason))
            self._changed.trigger()

    def _on_clock_jump(self, stood: bool) -> None:
        assert self.core is not None
        self._note(self.core.clock_jumped(stood))

    # Reports.

    def _change_state(self, state: State) -> None:
        self._say_transitions()
        self._state = self._noted = state
        self._publish_status()

    def _say_transitions(self) -> None:
        if self._loop is not None and self._loop.error is not None:
            self._fail(QgfError(f"the control thread failed: {self._loop.error!r}"))
        while self._transitions:
            state, reason = self._transitions.popleft()
            text = f"{self._state.name} -> {state.name} {reason.detail if reason else ''}".rstrip()
            log = self._reports.log
            fine = state in (State.READY, State.RUN)
            (log.info if fine else log.warning)(reason.code_text if reason else state.name, text)
            self._state = state
            self._publish_status(reason)

    def _publish_status(self, reason: Problem | None = None) -> None:
        """reason: of the state, if it is not the newest one."""
        core, error = self.core, self.error
        status = self._reports.status(core, self._state, error, self._warnings, reason)
        self._around.said(status)
        self._reports.publish(status, core, error is not None, self._around.connections)

    def _on_timer(self) -> None:
        self._warnings = self._around.look()
        self._say_transitions()
        self._publish_status()


def _summary(policy: Policy, sampler: Sampler, beta: float) -> str:
    time_ = policy.contract.time
    return (
        f"policy {policy.name} ({policy.sha256[:12]}) for {policy.contract.robot}: "
        f"{1 / time_.period:.4g} Hz, {time_.horizon} actions per chunk, beta {beta:g} "
        f"(floor {policy.description.beta.min:g}), "
        f"{sampler.backend} on {sampler.device} ({sampler.details})"
    )


def main() -> int:
    """Entry point of `ros2 run qgf_ros qgf_node`."""
    return run(QgfNode, "qgf", commands=True)


if __name__ == "__main__":
    sys.exit(main())
