"""The launch file and the parameter files.

Pinned here: only a launch that starts the simulation enables the robot, whatever a parameter file
says; the gate stands between the node and the robot by default; a wrong argument starts nothing; one
process dying ends the others, and so does the launch that is killed; Ctrl-C ends all with 0.
Where `launch` is missing, the text of the files is checked and the launches are skipped.
"""

import ast
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
import yaml

pytest.importorskip(
    "rclpy", reason="rclpy is not importable here: pip install 'qgf_ros[ros]' or source a ROS 2"
)

import rclpy
import ros_harness as ros
from ament_index_python.packages import get_package_prefix
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import SetBool

from qgf_ros.files.share import share_folder

CONFIG = share_folder() / "config"
LAUNCH_FILE = share_folder() / "launch" / "qgf_control.launch.py"
PROCESSES = ("qgf_node", "qgf_gate", "qgf_sim")
PATIENCE = 20  # s, for what takes about two
WISH = {"ros__parameters": {"enable_on_start": True}}  # of a parameter file; only a launch may
needs_launch = pytest.mark.skipif(
    find_spec("launch_ros") is None,
    reason="launch_ros is not importable: there is no wheel of it, it comes with an apt ROS 2",
)


# What the files say.


def parameters_of(name):
    content = yaml.safe_load((CONFIG / name).read_text())
    assert list(content) == ["/**"], "any other key is silently inert in a namespace"
    assert list(content["/**"]) == ["ros__parameters"]
    return content["/**"]["ros__parameters"]


TREE = ast.parse(LAUNCH_FILE.read_text())


def expression(parameter, **names):
    """The launch file's own expression for a parameter, which it sets in one place, evaluated: `launch`
    is missing on most test machines."""
    found = [
        value
        for node in ast.walk(TREE)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values)
        if isinstance(key, ast.Constant) and key.value == parameter
    ]
    assert len(found) == 1
    return eval(compile(ast.Expression(found[0]), LAUNCH_FILE.name, "eval"), names)


def calls(name):
    """The keyword arguments of each call, as source text; the first positional one is `0`."""
    return [
        {k.arg: ast.unparse(k.value) for k in node.keywords}
        | ({"0": ast.unparse(node.args[0])} if node.args else {})
        for node in ast.walk(TREE)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == name
    ]


def test_fault_113_the_launch_file_enables_only_with_its_own_simulation():
    assert LAUNCH_FILE.read_text().count("enable_on_start") == 1
    found = {s: expression("enable_on_start", sim=s) for s in ("mujoco", "gazebo", "none")}
    assert found == {"mujoco": True, "gazebo": False, "none": False}


def test_the_gate_stands_by_default_and_then_the_node_publishes_nothing_to_the_robot():
    arguments = {eval(a["0"]): a for a in calls("DeclareLaunchArgument")}
    assert eval(arguments["gate"]["default_value"]) == "true"
    assert eval(arguments["gate"]["choices"]) == ["true", "false"]
    assert {g: expression("gate", gate=g) for g in (True, False)} == {
        True: "outside",
        False: "inside",
    }


def test_fault_076_every_process_ends_with_the_launch():
    assert expression("exit_with_parent") is True
    nodes = {eval(n["executable"]): n["parameters"] for n in calls("Node")}
    assert sorted(nodes) == ["qgf_encoder", "qgf_gate", "qgf_node", "qgf_sim"]
    source = LAUNCH_FILE.read_text()
    assert "shared = every |" in source and "parameters = shared |" in source
    for executable, given in nodes.items():
        assert {"parameters", "shared", "every"} & set(given.strip("[]").split(", ")), executable


# Real launches.

LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
arguments = [a.split(":=", 1) for a in sys.argv[2:]]
service = LaunchService()
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(sys.argv[1], launch_arguments=arguments)]))
sys.exit(service.run())
"""


class Launched:
    """A process group, as a terminal makes one, with its output in a file."""

    def __init__(self, log, domain, *command):
        env = ros.environment(domain, ROS_LOG_DIR=str(log.parent))
        self._log = log
        self.process = subprocess.Popen(
            command, env=env, stdout=log.open("w"), stderr=subprocess.STDOUT, start_new_session=True
        )

    @property
    def text(self):
        return self._log.read_text()

    def wait_for(self, text, count=1):
        until(lambda: self.text.count(text) >= count, lambda: self.text)

    def pid(self, executable):
        line = next(x for x in self.text.splitlines() if x.startswith(f"[INFO] [{executable}-"))
        return int(line.split("pid [")[1].rstrip("]"))

    def ctrl_c(self):
        """The exit code, and the seconds that it took."""
        began = time.monotonic()
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(PATIENCE), time.monotonic() - began

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def until(true, what):
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, what()
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path, domain):
    started = []

    def start(*command):
        started.append(Launched(tmp_path / f"{len(started)}.log", domain, *command))
        return started[-1]

    yield start
    for launched in started:
        launched.kill()


@pytest.fixture
def launch(start):
    return lambda *arguments: start(sys.executable, "-c", LAUNCH, str(LAUNCH_FILE), *arguments)


class Listener:
    """Counts commands on the robot's topic, and enables."""

    def __init__(self, domain, namespace):
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self._node = rclpy.create_node("listener", namespace=namespace, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._client = self._node.create_client(SetBool, "qgf/enable")
        self.commands = []
        self._node.create_subscription(
            Float64MultiArray,
            "velocity_controller/commands",
            lambda m: self.commands.append(list(m.data)),
            10,
        )

    def spin(self, seconds, enough=math.inf):
        end = time.monotonic() + seconds
        while time.monotonic() < end and len(self.commands) < enough:
            self._executor.spin_once(timeout_sec=0.1)

    def enable(self):
        assert self._client.wait_for_service(PATIENCE)
        answer = self._client.call_async(SetBool.Request(data=True))
        self._executor.spin_until_future_complete(answer, PATIENCE)
        assert answer.result().success, answer.result().message

    def close(self):
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)


@pytest.fixture
def listen(domain):
    made = []

    def listen(namespace=""):
        made.append(Listener(domain, namespace))
        return made[-1]

    yield listen
    for listener in made:
        listener.close()


@needs_launch
@pytest.mark.parametrize("arguments", [(), ("gate:=false",)], ids=["gate", "no gate"])
def test_fault_077_the_arm_moves_and_ctrl_c_ends_all_processes_well(launch, listen, arguments):
    listener, launched = listen(), launch(*arguments)
    listener.spin(PATIENCE, enough=20)
    assert any(abs(v) > 0.05 for command in listener.commands for v in command), launched.text
    code, seconds = launched.ctrl_c()
    assert code == 0 and seconds < 5, (code, seconds, launched.text)
    assert launched.text.count("process has finished cleanly") == 2 + (not arguments)
    assert "sending signal" not in launched.text  # nothing had to be escalated


@needs_launch
def test_fault_113_without_simulation_nothing_moves_until_enable(launch, start, listen, tmp_path):
    """In a namespace, on live state from a simulation, with a file that asks for the contrary."""
    file = tmp_path / "wish.yaml"
    file.write_text(json.dumps({"/**": WISH}))  # is YAML, and has no aliases
    listener = listen("left")
    start(f"{get_package_prefix('qgf_ros')}/lib/qgf_ros/qgf_sim", "--ros-args", "-r", "__ns:=/left")
    arguments = ("policy:=planar_arm", "use_sim_time:=true", "namespace:=left")
    launched = launch("sim:=none", *arguments, f"params_file:={file}")
    launched.wait_for("WAITING -> READY")
    listener.spin(1.0)
    assert listener.commands == []
    listener.enable()
    listener.spin(PATIENCE, enough=10)
    assert len(listener.commands) >= 10, launched.text
    assert launched.ctrl_c()[0] == 0


@needs_launch
@pytest.mark.parametrize("keys", [("/left/qgf", "/**"), ("/**", "/**/qgf"), ("/left/*",), ()])
def test_fault_113_a_file_whose_keys_could_outdo_the_launch_starts_nothing(launch, tmp_path, keys):
    file = tmp_path / "wish.yaml"
    file.write_text(json.dumps(dict.fromkeys(keys, WISH)))
    launched = launch("policy:=planar_arm", f"params_file:={file}")
    assert launched.process.wait(PATIENCE) == 1
    assert "its one key must be /**" in launched.text and "process started" not in launched.text


@needs_launch
@pytest.mark.parametrize("victim", PROCESSES)
def test_when_one_process_dies_the_launch_ends_and_says_so_by_its_code(launch, victim):
    launched = launch()
    launched.wait_for(": READY", count=3)
    pids = {name: launched.pid(name) for name in PROCESSES}
    os.kill(pids[victim], signal.SIGKILL)
    assert launched.process.wait(PATIENCE) == 1
    gone(pids, launched)


@needs_launch
def test_fault_076_a_launch_that_is_killed_leaves_nobody_behind(launch):
    launched = launch()
    launched.wait_for(": READY", count=3)
    pids = {name: launched.pid(name) for name in PROCESSES}
    launched.process.kill()
    gone(pids, launched)


def gone(pids, launched):
    for name, pid in pids.items():
        until(
            lambda p=pid: not os.path.exists(f"/proc/{p}"),
            lambda n=name: f"{n} goes on\n{launched.text}",
        )


@needs_launch
@pytest.mark.parametrize(
    "argument, words",
    [
        ("sim:=mujocoo", "Valid options are: ['mujoco', 'gazebo', 'none']"),
        ("params_file:=/nowhere.yaml", "'/nowhere.yaml' does not exist"),
        ("use_sim_time:=maybe", "Valid options are: ['auto', 'true', 'false']"),
    ],
)
def test_a_wrong_argument_starts_nothing(launch, argument, words):
    launched = launch(argument)
    assert launched.process.wait(PATIENCE) == 1
    assert words in launched.text and "process started" not in launched.text
