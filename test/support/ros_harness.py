"""Real processes and a fake robot on the wire, for the tests of the ROS nodes.

Every test has a ROS domain of its own, so tests may run side by side. Nothing here sleeps for
discovery or for an answer: it waits for the event, with a deadline, and says what it waited for.
Times of arrival are on the steady clock; stamps are system time unless a test scripts them.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import fork_server

T = TypeVar("T")

try:
    from builtin_interfaces.msg import Time
    from diagnostic_msgs.msg import DiagnosticArray
    from geometry_msgs.msg import Point, PointStamped
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState, GetState
    from qgf_ros.msg import (  # noqa: F401
        Command,
        Features,
        GateStatus,
        PolicyInfo,
        QValues,
        Status,
        Tick,
    )
    from qgf_ros.srv import LoadPolicy
    from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
    from rcl_interfaces.srv import (
        DescribeParameters,
        GetParameters,
        SetParameters,
        SetParametersAtomically,
    )
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
    from rosgraph_msgs.msg import Clock  # noqa: F401  (for the tests)
    from sensor_msgs.msg import JointState
    from std_msgs.msg import Bool, Float64, Float64MultiArray, Header  # noqa: F401
    from std_srvs.srv import SetBool, Trigger

    from qgf_ros.ros.lean import LeanNode
except ImportError as error:  # tests fail with this, they do not skip: see conftest.py of test/ros
    MISSING = f"the wire tests need rclpy and the compiled messages ({error}); run them by `make test`, or source install/setup.bash"
else:
    MISSING = ""

PERIOD = 0.05  # s, of the shipped policy
SPEED = 2.0  # rad/s, limit of the contract
ENDS = ((-2.7, 2.7), (0.1, 2.3))  # rad, of the fake robot's joints: where they were recorded
STATE_TOPICS = ("joint_states", "goal", "obstacle")
WAITING, READY, RUN, HOLD, FAULT = 2, 3, 4, 5, 6
INACTIVE, UNCONFIGURED, SHUTDOWN = 1, 0, 7
REPO = Path(__file__).resolve().parents[2]


class _Stalls(threading.Thread):
    """How long this machine lets a thread wait for its turn: a busy one is no fault of the node's.

    Of this process by a clock of its own, of the processes that it has started by the kernel's account
    of them: what their threads have waited for a processor, which SIGSTOP or a lock is no part of.
    """

    EVERY = 10  # looks at the own clock for one at the processes

    def __init__(self):
        super().__init__(name="stalls", daemon=True)
        self.own = self.own_ever = 0.0  # s, the longest wait
        self.theirs = self.theirs_ever = 0.0  # s that all threads of a process waited, of 50 ms
        self._processes: dict[int, dict[str, int]] = {}

    def add(self, pid: int) -> None:
        self._processes[pid] = {}

    def remove(self, pid: int) -> None:
        self._processes.pop(pid, None)

    def run(self):
        looks = 0
        while True:
            asked = time.monotonic()
            time.sleep(0.005)
            late = time.monotonic() - asked - 0.005
            self.own, self.own_ever = max(self.own, late), max(self.own_ever, late)
            looks += 1
            if looks % self.EVERY == 0:
                for pid, before in list(self._processes.items()):
                    now = _waited(pid)
                    late = sum(ns - before.get(task, ns) for task, ns in now.items()) * 1e-9
                    before |= now
                    self.theirs = max(self.theirs, late)
                    self.theirs_ever = max(self.theirs_ever, late)


def _waited(pid: int) -> dict[str, int]:
    """ns that each thread of a process, and of its children, has waited for a processor so far."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError):  # it ends meanwhile
        tasks = f"/proc/{pid}/task"
        for task in os.listdir(tasks):
            with contextlib.suppress(OSError), open(f"{tasks}/{task}/schedstat") as file:
                found[task] = int(file.read().split()[1])
            with contextlib.suppress(OSError), open(f"{tasks}/{task}/children") as file:
                for child in file.read().split():
                    found |= _waited(int(child))
    return found


_stalls = _Stalls()


def watch_stalls():
    """Begin anew; `slack()` speaks of the time since then."""
    global _stalls
    if not _stalls.is_alive():
        _stalls = _Stalls()  # one that was made before a fork cannot be started after it
        _stalls.start()
    _stalls.own = _stalls.theirs = 0.0


def begin_test():
    """As `watch_stalls`, and what `stalled()` says begins anew too."""
    watch_stalls()
    _stalls.own_ever = _stalls.theirs_ever = 0.0


def stalled(longest: float) -> str:
    """What this machine did since the test began, however often it has begun to watch anew, if it let
    this process wait for more than `longest` s, or one of its processes; else ""."""
    if _stalls.own_ever > longest:
        return f"this machine let the test wait for {_stalls.own_ever:.2f} s"
    if _stalls.theirs_ever > longest:
        return f"this machine let a process of the test wait for {_stalls.theirs_ever:.2f} s"
    return ""


def slack() -> float:
    """s of scheduling that a wire assertion allows: 10 ms, the worst stall seen on either side, and what
    the processes under test have waited for their turn."""
    return 0.010 + 2 * _stalls.own + _stalls.theirs


class TimedOut(AssertionError):
    """What was waited for did not come. On a machine that is busy with something else it may just
    have taken longer: the one failure for which a wire test is run again, see test/conftest.py.
    Other failures count as this one where the machine stalled. What came and was wrong whatever the
    machine does is a `Violation`, and never forgiven."""


class Violation(AssertionError):
    """A command outside the envelope. No busy machine excuses it: it is final."""


DOMAINS = 100  # 1 to 100; the ports of later ones are given to anybody who asks the system for one
LEAVES_WITHIN = 10.0  # s after a test, for whoever was in its domain
_domain_locks: dict[int, int] = {}
_taken = 0


def take_domain() -> int:
    """A ROS domain that is ours alone on this machine, 1 to 100. Each worker begins elsewhere.

    A lock keeps other tests out of it, of this run and of others beside it; and nobody has a port of
    it open, be it a process that a test left behind or one that knows nothing of tests.
    """
    global _taken
    folder = Path(tempfile.gettempdir()) / "qgf_test_domains"
    folder.mkdir(exist_ok=True)
    with contextlib.suppress(PermissionError):  # somebody else's, who has done so
        folder.chmod(0o777)
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw") or 0)
    until = time.monotonic() + 60.0
    while time.monotonic() < until:
        for _ in range(DOMAINS):
            domain = 1 + (37 * worker + _taken) % DOMAINS
            _taken += 1
            handle = os.open(folder / str(domain), os.O_CREAT | os.O_RDONLY, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(handle)
                continue
            if not ports(domain):
                _domain_locks[domain] = handle
                return domain
            os.close(handle)
        time.sleep(0.1)
    raise AssertionError(f"all {DOMAINS} ROS domains are in use for a minute")


def free_domain(domain: int) -> None:
    """Gives it back once nobody is in it any more. Who stays is the fault of the test that ends."""
    try:
        until = time.monotonic() + LEAVES_WITHIN
        while left := ports(domain):
            if time.monotonic() > until:
                raise AssertionError(f"left behind in ROS domain {domain}: {_owners(left)}")
            time.sleep(0.02)
    finally:
        os.close(_domain_locks.pop(domain))


def ports(domain: int) -> dict[int, str]:
    """The UDP ports of a ROS domain that are open on this machine, and the number of each socket's
    inode. Every DDS participant has at least one."""
    first = 7400 + 250 * domain
    found = {}
    for table in ("/proc/net/udp", "/proc/net/udp6"):
        with contextlib.suppress(OSError), open(table) as file:
            for line in file.read().splitlines()[1:]:
                fields = line.split()
                port = int(fields[1].rpartition(":")[2], 16)
                if first <= port < first + 250:
                    found[port] = fields[9]
    return found


def _owners(left: dict[int, str]) -> list[str]:
    """The processes that have these sockets, as far as one may see."""
    sockets = {f"socket:[{inode}]" for inode in left.values()}
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(_link(fd) in sockets for fd in (process / "fd").iterdir()):
                said = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                found.append(f"{process.name} {said.decode(errors='replace')[:200]}")
    return found or [f"ports {sorted(left)}"]


def _link(fd: Path) -> str:
    """What an open file is; "" once it is closed, as the one is that listed this process's own."""
    try:
        return os.readlink(fd)
    except OSError:
        return ""


def environment(domain: int, **extra: str) -> dict[str, str]:
    return os.environ | {
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "PYTHONUNBUFFERED": "1",
        **extra,
    }


def installed(name: str) -> str:
    """Path of an executable as `ros2 run` finds it: by the ament index."""
    from ament_index_python.packages import get_package_prefix

    path = Path(get_package_prefix("qgf_ros")) / "lib" / "qgf_ros" / name
    assert path.is_file(), f"{path} is not installed"
    return str(path)


def node_command(name: str = "qgf_node") -> list[str]:
    modules = {
        "qgf_node": "node",
        "qgf_gate": "gate_node",
        "qgf_sim": "sim_node",
        "qgf_encoder": "encoder_node",
    }
    return [sys.executable, "-m", f"qgf_ros.ros.{modules[name]}"]


def ros_args(
    remaps: tuple[str, ...] = (), files: tuple[Path, ...] = (), **parameters: Any
) -> list[str]:
    """--ros-args as the launch file passes them."""
    args = ["--ros-args"]
    for remap in remaps:
        args += ["-r", remap]
    for file in files:
        args += ["--params-file", str(file)]
    for name, value in parameters.items():
        args += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
    return args


class Proc:
    """A process in a group of its own. Leaving the block kills it; ignoring SIGTERM is a failure."""

    def __init__(
        self,
        command: list[str],
        domain: int,
        deadline: float = 120.0,
        cwd: Path | None = None,
        **env: str,
    ) -> None:
        self.out: list[str] = []
        self.err: list[str] = []
        self._news = threading.Condition()
        self.process: Any
        if fork_server.can_start(command, env):
            self.process = fork_server.start(command, environment(domain, **env), cwd)
        else:
            self.process = subprocess.Popen(
                command,
                env=environment(domain, **env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        pairs = ((self.process.stdout, self.out), (self.process.stderr, self.err))
        self._readers = [
            threading.Thread(target=self._read, args=pair, daemon=True) for pair in pairs
        ]
        for reader in self._readers:
            reader.start()
        _stalls.add(self.process.pid)
        self._killer = threading.Timer(deadline, self.kill)  # whatever hangs, the suite goes on
        self._killer.daemon = True
        self._killer.start()

    def _read(self, stream: Any, lines: list[str]) -> None:
        with stream:
            for line in stream:
                with self._news:
                    lines.append(line.rstrip("\n"))
                    self._news.notify_all()

    def wait_line(self, text: str, timeout: float = 20.0) -> str:
        """The first line of either stream that contains `text`."""
        until = time.monotonic() + timeout
        with self._news:
            while True:
                for line in [*self.out, *self.err]:
                    if text in line:
                        return line
                ended = self.process.poll() is not None and not any(
                    r.is_alive() for r in self._readers
                )
                left = until - time.monotonic()
                if ended or left <= 0:
                    what = (
                        f"ended with {self.process.returncode}"
                        if ended
                        else f"said nothing of it for {timeout} s"
                    )
                    kind = AssertionError if ended else TimedOut
                    raise kind(f"waiting for {text!r}: the process {what}\n{self.log}")
                self._news.wait(min(left, 0.2))

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def log(self) -> str:
        return "\n".join(["--- stdout", *self.out[-40:], "--- stderr", *self.err[-40:]])

    def send(self, number: signal.Signals) -> float:
        """Sends a signal; returns the steady time."""
        at = time.monotonic()
        self.process.send_signal(number)
        return at

    def wait(self, timeout: float) -> int:
        """The exit code, and all output is read."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimedOut(f"still running after {timeout} s\n{self.log}") from None
        for reader in self._readers:
            reader.join(timeout=5.0)
        return code

    def stop(self) -> None:
        """A node that is still there must end by SIGTERM, with code 0."""
        if not self.running:
            return
        self.send(signal.SIGTERM)
        try:
            code = self.wait(15.0)
        except TimedOut:
            self.kill()
            raise AssertionError(f"SIGTERM was ignored for 15 s\n{self.log}") from None
        assert code == 0, f"exit code {code} after SIGTERM\n{self.log}"

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        self._killer.cancel()
        _stalls.remove(self.process.pid)
        self.kill()
        self.process.wait(10.0)
        for reader in self._readers:
            reader.join(timeout=5.0)


class Arrived(NamedTuple):
    """A message and when it arrived [s, steady]."""

    at: float
    msg: Any

    @property
    def values(self) -> list[float]:
        return list(self.msg.data)


def ns(stamp: Any) -> int:
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def time_msg(nanoseconds: int) -> Any:
    return Time(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)


class Wire:
    """rclpy in the test process, on a domain of its own, spinning in a thread."""

    def __init__(self, domain: int, name: str, namespace: str = "", spin: bool = True) -> None:
        self.news = threading.Condition()
        self.context = Context()
        self.context.init(args=[], initialize_logging=False, domain_id=domain)
        self.node = LeanNode(
            name, context=self.context, namespace=namespace or None, start_parameter_services=False
        )
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._spin, name=name, daemon=True)
        if spin:
            self.begin()

    def begin(self) -> None:
        self._thread.start()

    def _spin(self) -> None:
        while not self._ending.is_set():
            self.executor.spin_once(timeout_sec=0.05)

    def record(
        self, kind: Any, topic: str, qos: Any, also: Callable[[Any, float], None] | None = None
    ) -> list[Arrived]:
        """Subscribes and keeps every message."""
        arrived: list[Arrived] = []

        def note(msg: Any) -> None:
            at = time.monotonic()
            with self.news:
                arrived.append(Arrived(at, msg))
                if also is not None:
                    also(msg, at)
                self.news.notify_all()

        self.node.create_subscription(kind, topic, note, qos)
        return arrived

    def wait(
        self, condition: Callable[[], T], timeout: float, what: str, proc: Proc | None = None
    ) -> T:
        """The first true value of `condition`, looked at on every arrival and 100 times a second."""
        until = time.monotonic() + timeout
        with self.news:
            while not (value := condition()):
                log = f"\n{proc.log}" if proc is not None else ""
                if time.monotonic() >= until:
                    raise TimedOut(f"waited {timeout} s for {what}{log}")
                assert proc is None or proc.running, (
                    f"the process ended while waiting for {what}{log}"
                )
                self.news.wait(0.01)
        return value

    def call(self, client: Any, request: Any, timeout: float = 5.0) -> Any:
        """A service's answer."""
        name = client.srv_name
        self.wait(client.service_is_ready, timeout, f"service {name}")
        future = client.call_async(request)
        self.wait(future.done, timeout, f"answer of {name}")
        assert future.result() is not None, future.exception()
        return future.result()

    def close(self) -> None:
        """The thread ends first: a context that is torn down under a wait may crash the process."""
        self._ending.set()
        self._thread.join(timeout=5.0)
        assert not self._thread.is_alive(), "the fake robot's executor hangs"
        self.executor.shutdown(timeout_sec=2.0)
        self.node.destroy_node()
        self.context.try_shutdown()


STEP = 0.02  # s, between joint states


class FakeRobot(Wire):
    """A velocity-driven arm as the node sees it: publishes state, takes commands, judges them.

    `say[topic]` makes the message of a topic from a stamp; None: the topic is silent. Envelope
    violations are collected as they arrive and are never forgiven.
    """

    def __init__(
        self, domain: int, namespace: str = "", node: str = "qgf", rate: float | None = None
    ) -> None:
        """rate: largest change of a command per second, where the test judges it."""
        super().__init__(domain, "fake_robot", namespace, spin=False)
        self.violations: list[str] = []
        self.rate = rate
        self.frozen = False  # commands do not move the arm: the policy goes on wanting to
        self.position = [-0.1, 0.8]
        self.velocity = [0.0, 0.0]
        self.say: dict[str, Callable[[int], Any] | None] = dict.fromkeys(STATE_TOPICS)
        self.honest: dict[str, Callable[[int], Any]] = {
            "joint_states": self.joint_state,
            "goal": lambda stamp: point(stamp, -0.65, 0.0),
            "obstacle": lambda stamp: point(stamp, 0.0, 0.45),
        }
        self.last_said: dict[str, float] = {}  # steady time
        self.stamps: dict[str, list[int]] = {t: [] for t in STATE_TOPICS}
        self._publishing = threading.Lock()

        reliable = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
        latched = QoSProfile(
            depth=1,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL,
        )
        create = self.node.create_publisher
        kinds = {"joint_states": JointState, "goal": PointStamped, "obstacle": PointStamped}
        self.publishers = {t: create(kinds[t], t, qos_profile_sensor_data) for t in STATE_TOPICS}
        self.estop_publisher = create(Bool, f"{node}/estop", latched)
        self.commands = self.record(
            Float64MultiArray, "velocity_controller/commands", reliable, self._judge
        )
        self.candidates = self.record(Command, f"{node}/command", reliable)
        self.statuses = self.record(Status, f"{node}/status", reliable)
        self.q_values = self.record(QValues, f"{node}/q_values", reliable)
        self.infos = self.record(PolicyInfo, f"{node}/policy_info", latched)
        self.diagnostics = self.record(DiagnosticArray, "/diagnostics", reliable)
        client = self.node.create_client
        self._enable = client(SetBool, f"{node}/enable")
        self._reset = client(Trigger, f"{node}/reset")
        self._set = client(SetParameters, f"{node}/set_parameters")
        self._set_atomically = client(SetParametersAtomically, f"{node}/set_parameters_atomically")
        self._get = client(GetParameters, f"{node}/get_parameters")
        self._describe = client(DescribeParameters, f"{node}/describe_parameters")
        self.load = client(LoadPolicy, f"{node}/load_policy")
        self._change = client(ChangeState, f"{node}/change_state")
        self._get_state = client(GetState, f"{node}/get_state")
        self._stopping = threading.Event()
        self._heart = threading.Thread(target=self._publish, name="fake-robot-state", daemon=True)
        self.begin()
        self._heart.start()

    # What the robot says.

    def joint_state(self, stamp: int, order: tuple[int, ...] = (0, 1)) -> Any:
        names = ("shoulder", "elbow")
        return JointState(
            header=Header(stamp=time_msg(stamp)),
            name=[names[i] for i in order],
            position=[self.position[i] for i in order],
            velocity=[self.velocity[i] for i in order],
        )

    def speak(self, *topics: str) -> None:
        """Honest messages on these topics from now on; on all of them by default."""
        for topic in topics or STATE_TOPICS:
            self.say[topic] = self.honest[topic]

    def hush(self, *topics: str) -> float:
        """Silence on these topics. Returns when the last message was said [s, steady]."""
        with self._publishing:
            for topic in topics or STATE_TOPICS:
                self.say[topic] = None
            return max(self.last_said.get(t, 0.0) for t in topics or STATE_TOPICS)

    def _publish(self) -> None:
        """50 Hz, every other time also the two slow topics. Late is late: nothing is caught up."""
        due, count = time.monotonic(), 0
        while not self._stopping.is_set():
            with self._publishing:
                self._integrate(STEP)
                for topic in STATE_TOPICS if count % 2 == 0 else ("joint_states",):
                    make = self.say[topic]
                    if make is None:
                        continue
                    stamp = time.time_ns()
                    msg = make(stamp)
                    if msg is not None:
                        self.last_said[topic] = time.monotonic()
                        self.stamps[topic].append(stamp)
                        self.publishers[topic].publish(msg)
            count += 1
            due = max(due + STEP, time.monotonic() - STEP)
            self._stopping.wait(max(0.0, due - time.monotonic()))

    def _integrate(self, dt: float) -> None:
        command = self.commands[-1].values if self.commands else [0.0, 0.0]
        if not self.frozen and len(command) == 2 and all(map(math.isfinite, command)):
            self.velocity = list(command)
            # A joint has an end: one that turns on for minutes is unlike anything recorded.
            moved = (p + v * dt for p, v in zip(self.position, command))
            self.position = [min(max(p, low), high) for p, (low, high) in zip(moved, ENDS)]

    def _judge(self, msg: Any, at: float) -> None:
        values = list(msg.data)
        before = self.commands[-2] if len(self.commands) > 1 else None
        if len(values) != 2 or not all(math.isfinite(v) for v in values):
            self.violations.append(f"not two finite numbers: {values}")
        elif max(map(abs, values)) > SPEED + 1e-9:
            self.violations.append(f"beyond {SPEED}: {values}")
        elif self.rate is not None:
            last = before.values if before is not None else [0.0, 0.0]
            change = max(abs(a - b) for a, b in zip(values, last))
            if change > self.rate * PERIOD + 1e-9:
                pause = f", {at - before.at:.3f} s before" if before is not None else ""
                self.violations.append(
                    f"command number {len(self.commands)}: {last} -> {values}{pause}"
                )

    def freeze(self) -> None:
        """Half way round and under way, and commands change nothing: the policy goes on wanting to
        turn at more than 1.2 rad/s."""
        self.frozen, self.position, self.velocity = True, [-1.2, 0.9], [-1.5, 0.0]

    def fell_silent(self, begin: int = 0) -> bool:
        """Whether this machine let the robot be silent for longer than a state may lack, since its
        joint state number `begin`: a hold that follows is right."""
        at = self.stamps["joint_states"][max(0, begin - 1) :]
        return any(b - a > 80_000_000 for a, b in zip(at, at[1:]))

    def refuse_violations(self) -> None:
        """Raises Violation if a command was outside the envelope."""
        if self.violations:
            raise Violation(str(self.violations))

    # What a person does.

    def enable(self, on: bool = True) -> Any:
        return self.call(self._enable, SetBool.Request(data=on))

    def enabled(self, timeout: float = 5.0) -> None:
        """Enables. A READY from before a reset may still be the newest word of the node, and a machine
        that is busy may make the state stale for a moment: a refusal is asked again."""
        until = time.monotonic() + timeout
        while not (answer := self.enable()).success:
            if time.monotonic() > until:
                raise TimedOut(f"enable is refused for {timeout} s: {answer.message}")
            self.wait_statuses(1)

    def reset(self) -> Any:
        return self.call(self._reset, Trigger.Request())

    def load_policy(self, name: str, timeout: float = 30.0) -> Any:
        return self.call(self.load, LoadPolicy.Request(name=name), timeout)

    def estop(self, pressed: bool) -> float:
        """Returns when it was said [s, steady]."""
        self.wait(
            lambda: self.estop_publisher.get_subscription_count() > 0, 10, "a listener on estop"
        )
        at = time.monotonic()
        self.estop_publisher.publish(Bool(data=pressed))
        return at

    def set(self, **parameters: Any) -> Any:
        """One result per parameter."""
        values = [Parameter(name=k, value=parameter_value(v)) for k, v in parameters.items()]
        return self.call(self._set, SetParameters.Request(parameters=values)).results

    def set_atomically(self, **parameters: Any) -> Any:
        values = [Parameter(name=k, value=parameter_value(v)) for k, v in parameters.items()]
        return self.call(
            self._set_atomically, SetParametersAtomically.Request(parameters=values)
        ).result

    def get(self, *names: str) -> list[Any]:
        values = self.call(self._get, GetParameters.Request(names=list(names))).values
        fields = {1: "bool_value", 2: "integer_value", 3: "double_value", 4: "string_value"}
        return [getattr(v, fields[v.type]) if v.type else None for v in values]

    def describe(self, *names: str) -> Any:
        return self.call(self._describe, DescribeParameters.Request(names=list(names))).descriptors

    def transition(self, number: int, timeout: float = 20.0) -> bool:
        request = ChangeState.Request(transition=Transition(id=number))
        return self.call(self._change, request, timeout).success

    def life_cycle(self) -> str:
        return self.call(self._get_state, GetState.Request()).current_state.label

    # What the node is waited for.

    def wait(
        self, condition: Callable[[], T], timeout: float, what: str, proc: Proc | None = None
    ) -> T:
        """As `Wire.wait`; where it did not come, what the node and the machine were doing."""
        try:
            return super().wait(condition, timeout, what, proc)
        except TimedOut as error:
            said = self.statuses[-1].msg if self.statuses else None
            why = f"state {said.state} {said.reason}" if said is not None else "no status"
            first, _, rest = str(error).partition("\n")
            busy = stalled(0.02) or "this machine let nobody wait"
            raise TimedOut(f"{first} ({why}; {busy})\n{rest}".rstrip()) from None

    @property
    def state(self) -> int:
        return self.statuses[-1].msg.state if self.statuses else -1

    def wait_state(
        self, state: int, timeout: float = 5.0, proc: Proc | None = None, reason: str = ""
    ) -> Arrived:
        """The first status from now on that has this state, and this reason if one is given."""
        begin = max(0, len(self.statuses) - 1)

        def found() -> Arrived | None:
            return next(
                (
                    s
                    for s in self.statuses[begin:]
                    if s.msg.state == state and reason in s.msg.reason
                ),
                None,
            )

        try:
            return self.wait(found, timeout, f"state {state} {reason}", proc)
        except TimedOut as error:
            last = self.statuses[-1].msg if self.statuses else None
            raise TimedOut(f"{error}\nlast status: {last}") from None

    def wait_commands(self, count: int, timeout: float = 5.0) -> list[Arrived]:
        """`count` new commands."""
        begin = len(self.commands)
        self.wait(lambda: len(self.commands) >= begin + count, timeout, f"{count} commands")
        return self.commands[begin:]

    def wait_candidates(self, count: int, timeout: float = 5.0) -> list[Arrived]:
        begin = len(self.candidates)
        self.wait(lambda: len(self.candidates) >= begin + count, timeout, f"{count} candidates")
        return self.candidates[begin:]

    def wait_statuses(self, count: int, timeout: float = 5.0) -> list[Arrived]:
        begin = len(self.statuses)
        self.wait(lambda: len(self.statuses) >= begin + count, timeout, f"{count} statuses")
        return self.statuses[begin:]

    def wait_silence(self, seconds: float, timeout: float = 5.0) -> float:
        """Until no command arrived for `seconds`; returns when the last one did [s, steady]."""
        began = time.monotonic()

        def quiet() -> bool:
            return (
                time.monotonic() - max(began, self.commands[-1].at if self.commands else began)
                >= seconds
            )

        self.wait(quiet, timeout, f"{seconds} s without a command")
        return self.commands[-1].at if self.commands else math.nan

    def drive(self, proc: Proc | None = None) -> None:
        """Full state, enabled, moving: at least one whole chunk has been executed."""
        self.speak()
        self.wait_state(READY, 15.0, proc)
        self.enabled()
        self.wait_state(RUN, 5.0, proc)
        self.wait_candidates(6)
        # Each topic is discovered by itself, so one that arrives says nothing about the others.
        self.wait(lambda: self.commands and self.q_values, 10.0, "commands and Q values", proc)

    def close(self) -> None:
        self._stopping.set()
        self._heart.join(timeout=2.0)
        super().close()


def point(stamp: int, x: float, y: float) -> Any:
    return PointStamped(header=Header(stamp=time_msg(stamp)), point=Point(x=x, y=y))


def parameter_value(value: Any) -> Any:
    """None is "not set", which is how `ros2 param delete` arrives."""
    kinds = {
        bool: ("BOOL", "bool_value"),
        int: ("INTEGER", "integer_value"),
        float: ("DOUBLE", "double_value"),
    }
    kinds |= {str: ("STRING", "string_value")}
    if value is None:
        return ParameterValue(type=ParameterType.PARAMETER_NOT_SET)
    if isinstance(value, list):
        return ParameterValue(type=ParameterType.PARAMETER_DOUBLE_ARRAY, double_array_value=value)
    name, field = kinds[type(value)]
    return ParameterValue(type=getattr(ParameterType, f"PARAMETER_{name}"), **{field: value})


@contextlib.contextmanager
def node_and_robot(
    domain: int,
    *args: str,
    remaps: tuple[str, ...] = (),
    namespace: str = "",
    rate: float | None = None,
    policy: str | Path = "planar_arm",
    **parameters: Any,
) -> Iterator[tuple[Proc, FakeRobot]]:
    """A running node and a silent robot beside it. In the end the node obeys SIGTERM, and no
    command was outside the envelope."""
    robot = FakeRobot(domain, namespace, rate=rate)
    command = [*node_command(), *ros_args(remaps, policy=policy, **parameters), *args]
    proc = Proc(command, domain, deadline=300.0)
    try:
        proc.wait_line("qgf: READY" if parameters.get("autostart", True) else "qgf: UNCONFIGURED")
        yield proc, robot
        proc.stop()
        robot.refuse_violations()
    finally:
        proc.close()
        robot.close()


def run_to_end(command: list[str], domain: int, timeout: float = 30.0, **kwargs: Any) -> Proc:
    """A process that is expected to end by itself. Its code is in `proc.process.returncode`."""
    proc = Proc(command, domain, **kwargs)
    try:
        proc.wait(timeout)
    finally:
        proc.close()
    return proc
