"""The node `qgf_gate`: the second barrier, in a process of its own, which survives the first.

It alone publishes on the robot's topics. Candidates come on `<owner>/command`; each that may pass
goes out at once, within the contract's limits. When they stop, are late, foreign or wrong, a thread
on the steady clock brings the robot to a hold. Before the first candidate it sends nothing. It hears
the emergency stop itself, and outlives whatever it is sent.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.expand_topic_name import expand_topic_name
from rclpy.parameter import Parameter
from rclpy.serialization import deserialize_message
from rclpy.validate_full_topic_name import validate_full_topic_name

from qgf_ros.control.arbiter import Arbiter, Moment
from qgf_ros.control.gate import Candidate, Output, Refused
from qgf_ros.control.measured import MeasuredPositions
from qgf_ros.control.reasons import Code, Problem
from qgf_ros.control.settings import BY_NAME
from qgf_ros.control.spec import Spec
from qgf_ros.errors import QgfError, UsageError
from qgf_ros.files.share import find_policy
from qgf_ros.policy.vetting import vetted_policy
from qgf_ros.ros import qos
from qgf_ros.ros.conversions import Command, candidate, nanoseconds, ros_type
from qgf_ros.ros.estop import EmergencyStop
from qgf_ros.ros.gate_reports import GateReports
from qgf_ros.ros.lean import LeanNode
from qgf_ros.ros.parameters import Parameters, Values
from qgf_ros.ros.process import STOPPING, exit_with_parent, run
from qgf_ros.ros.robot_commands import RobotCommands, bring_to_rest
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.observations.source import ObservationSource

STATUS_PERIOD = 0.1  # s, steady time
MAX_TEXT = 500  # characters of what went wrong, in words
MAX_BYTES = 2**16  # of a message: larger ones are not even looked into

PARAMETERS = (
    Spec("policy", str, None, "Policy folder, or a shipped policy's name: its contract counts."),
    Spec("contract", str, None, "Contract file (contract.yaml), in place of a policy."),
    Spec("owners", str, "qgf", "Nodes that may command, separated by commas, the first above all others; each "
         "publishes its candidates on <name>/command. A name without / is in the gate's namespace."),
    Spec("command_timeout", float, 0.0, "The gate holds after so long without a candidate. 0: two control periods.",
         "s", 0.0, 10.0),
    Spec("estop", str, None, "Topics of emergency stops, separated by commas. Unset: <name>/estop of each owner."),
    BY_NAME["estop_timeout"],
    BY_NAME["limits_scale"],
    BY_NAME["exit_with_parent"],
)  # fmt: skip


class GateNode(LeanNode):
    """The executor's thread passes candidates on, the watchdog's thread holds; one lock for both."""

    def __init__(self) -> None:
        super().__init__("qgf_gate")
        self.node = self
        self.done = threading.Event()
        self.error: Exception | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self.parameters = Parameters(self, self._on_parameters, PARAMETERS, foreign=BY_NAME)
        values = self.parameters.values
        if values["exit_with_parent"]:
            exit_with_parent()
        self._contract, policy = _contract(values["policy"], values["contract"])
        owners = self._full_names("owners", values["owners"])
        by_default = ",".join(f"{owner}/estop" for owner in owners)
        estops = self._full_names("estop", values["estop"] or by_default)
        simulated = self.get_parameter("use_sim_time").value
        self._arbiter = Arbiter(self._contract, owners, values["command_timeout"], simulated)
        self._arbiter.gate.scale = values["limits_scale"]
        self._measured = MeasuredPositions(self._contract)
        self._robot = RobotCommands(self, self._contract)
        self._passed = self.create_publisher(Command, "~/passed", qos.REPORT)
        self._reports = GateReports(self, self._arbiter, self._contract, policy)
        timeout = values["estop_timeout"]
        self._estops = [
            EmergencyStop(self, partial(self._on_estop, topic), False, topic, timeout)
            for topic in estops
        ]
        # Raw: what is too large is dropped before it becomes a million Python objects.
        for owner in owners:
            take = partial(self._guarded, "COMMAND_SCHEMA", partial(self._on_command, owner))
            self.create_subscription(Command, f"{owner}/command", take, qos.COMMAND, raw=True)
        for source in self._measured.sources:
            take = partial(self._guarded, "STATE_SCHEMA", partial(self._on_state, source))
            self.create_subscription(ros_type(source.type), source.topic, take, qos.STATE, raw=True)
        # Steady time: status goes on when a simulated clock stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(STATUS_PERIOD, self._on_timer, clock=steady)
        self._thread = threading.Thread(target=self._watch, name="qgf-gate-watch", daemon=True)

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        return self.parameters.set(parameter_list, super().set_parameters_atomically)

    def raised(self, error: Exception) -> None:
        """A callback failed, whatever it was sent: the robot holds, and the gate goes on."""
        text = f"a callback failed: {type(error).__name__}: {str(error)[:MAX_TEXT]}"
        with self._lock:
            problem = Problem("CALLBACK", "", text)
            self._reports.refused(problem)
            self._send(self._arbiter.interrupt(problem, self._now()))

    def start(self) -> str:
        self._thread.start()
        return "READY"

    def close(self) -> None:
        """The last command on the wire is a stop."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)
        gate = self._arbiter.gate
        bring_to_rest(
            gate,
            lambda: gate.brake(self._now().control),
            lambda: gate.stop(self._now().control),
            self._send,
            self._contract.time.period,
        )
        self._robot.deliver()
        self._robot.destroy()

    def _now(self) -> Moment:
        return Moment(self.get_clock().now().nanoseconds, time.monotonic_ns())

    def _full_names(self, parameter: str, names: str) -> tuple[str, ...]:
        name, space = self.get_name(), self.get_namespace()
        try:
            full = tuple(expand_topic_name(n.strip(), name, space) for n in names.split(","))
            all(map(validate_full_topic_name, full))
        except Exception as error:  # rclpy has several types for a bad name
            raise UsageError(f"{parameter} is {names!r}: {' '.join(str(error).split())}") from None
        if len(set(full)) < len(full):
            raise UsageError(f"{parameter} is {names!r}; name each once")
        return full

    # What arrives.

    def _guarded(self, code: Code, take: Callable[[bytes], None], data: bytes) -> None:
        """Nothing that arrives may end the executor, or keep it busy."""
        try:
            if len(data) > MAX_BYTES:
                raise Refused(code, "", f"{len(data)} bytes; allowed {MAX_BYTES}")
            take(data)
        except Refused as refusal:
            self._refused(refusal.problem)
        except Exception as error:
            self._refused(Problem(code, "", f"{type(error).__name__}: {error}"))

    def _refused(self, problem: Problem) -> None:
        self._reports.refused(replace(problem, detail=problem.detail[:MAX_TEXT]))

    def _on_command(self, owner: str, data: bytes) -> None:
        offered = candidate(deserialize_message(data, Command))
        self._hear_estops()  # what was pressed before this came counts before it
        with self._lock:
            now = self._now()
            measured = self._measured.at(now.control)
            self._send(self._arbiter.offer(owner, offered, now, measured), offered)

    def _on_state(self, source: ObservationSource, data: bytes) -> None:
        msg = deserialize_message(data, ros_type(source.type))
        stamp = nanoseconds(msg.header.stamp) if source.stamp == "header" else 0
        receipt = self._now().control
        self._measured.push_message(source, stamp or receipt, receipt, msg)

    def _on_parameters(self, values: Values) -> None:
        with self._lock:
            self._arbiter.gate.scale = values["limits_scale"]  # the only live one

    def _on_estop(self, topic: str) -> None:
        self._stop(
            Problem("ESTOP", "", f"emergency stop on {topic}; release it, then enable again")
        )

    def _stop(self, problem: Problem) -> None:
        with self._lock:
            self._send(self._arbiter.emergency_stop(problem, self._now()))

    def _hear_estops(self) -> None:
        """All that waits on the emergency stops' topics, and whether one of them stops us now."""
        for estop in self._estops:
            estop.drain()
        if any(e.is_pressed for e in self._estops):
            return  # said when it was heard
        lost = [e.lost for e in self._estops if e.required and e.lost is not None]
        if not any(e.heard for e in self._estops):  # of several owners' one is enough
            missing = self._estops[0].problem()
            lost += [missing] if missing is not None else []
        if lost:
            self._stop(lost[0])
            return
        with self._lock:
            self._arbiter.release()

    def _on_timer(self) -> None:
        self._hear_estops()
        for estop in self._estops:
            estop.look()
        with self._lock:
            self._reports.publish(self._now(), self._robot.shared_topics)

    # What goes out.

    def _send(self, output: Output | None, offered: Candidate | None = None) -> None:
        """To the robot, and to `~/passed`: the candidate as it was sent, or the gate's own hold."""
        if output is not None and output.values is not None:
            now = self._now().control
            self._robot.send(output, now)
            after = self._now().control
            self._passed.publish(self._reports.passed(output, offered, now, after))
        self._reports.note(self._now())

    def _watch(self) -> None:
        try:
            while not self._stopping.wait(self._arbiter.pause(self._now())):
                try:
                    with self._lock:
                        self._send(self._arbiter.watch(self._now()))
                except Exception as error:  # one turn of it: the next one holds all the more
                    self.raised(error)
        except Exception as error:  # without a watchdog there is no second barrier
            self.error = QgfError(f"the watchdog failed: {error!r}")
            self.done.set()


def _contract(policy: str | None, contract: str | None) -> tuple[Contract, str]:
    """The contract, and the policy's id if it is from a policy. Verified as for the node."""
    if bool(policy) == bool(contract):
        raise UsageError("give either policy or contract: the gate takes its limits from it")
    if contract:
        return Contract.load(Path(contract).expanduser()), ""
    loaded = vetted_policy(find_policy(policy or ""), stopping=STOPPING.is_set)
    return loaded.contract, loaded.sha256


def main() -> int:
    """Entry point of `ros2 run qgf_ros qgf_gate`."""
    return run(GateNode, "qgf_gate", commands=True)


if __name__ == "__main__":
    sys.exit(main())
