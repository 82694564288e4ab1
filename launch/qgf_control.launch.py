"""The node `qgf` behind `qgf_gate`, by default with the simulated arm, which then moves: a first look
needs no argument.

On a robot: sim:=none policy:=FOLDER; nothing moves until `~/enable`.
"""

from pathlib import Path

import yaml
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from qgf_ros.files.share import find_policy

ARGUMENTS = [
    DeclareLaunchArgument(
        "policy",
        default_value="",
        description="Policy folder, or a shipped policy's name. Default: params_file's, else the world's.",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=PathJoinSubstitution([FindPackageShare("qgf_ros"), "config", "default.yaml"]),
        description="Parameters of the node, under the key /** and no other. "
        "The gate takes policy and limits_scale from it.",
    ),
    DeclareLaunchArgument(
        "namespace",
        default_value="",
        description="Of all nodes and their topics; /clock is shared.",
    ),
    DeclareLaunchArgument(
        "gate",
        default_value="true",
        choices=["true", "false"],
        description="true: qgf_gate alone publishes on the robot's topics, and holds when the node dies or hangs. "
        "false: the node publishes there itself.",
    ),
    DeclareLaunchArgument(
        "owners",
        default_value="qgf",
        description="Who may command through the gate, separated by commas, the first above all others. "
        "With a teleoperation that publishes qgf_ros/Command on teleop/command: teleop,qgf.",
    ),
    DeclareLaunchArgument(
        "sim",
        default_value="mujoco",
        choices=["mujoco", "gazebo", "none"],
        description="mujoco: starts qgf_sim and enables the node: the arm moves. "
        "none: the node alone, for a robot; call ~/enable. "
        "gazebo: as none, but on the /clock of a Gazebo that you run yourself (unverified).",
    ),
    DeclareLaunchArgument(
        "world",
        default_value="planar_arm",
        description="What qgf_sim simulates: planar_arm, ur5e_cube (pip install ogbench) and its kin.",
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="auto",
        choices=["auto", "true", "false"],
        description="Whether time comes from /clock for node and gate. auto: yes, unless sim is none.",
    ),
    DeclareLaunchArgument(
        "autostart",
        default_value="",
        choices=["", "true", "false"],
        description="false: a lifecycle manager configures and activates the node. Default: params_file's, else true.",
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        description="Of all nodes: debug, info, warn, error or fatal.",
    ),
]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=nodes)])


def nodes(context: LaunchContext) -> list[Node]:
    """What to start, once the arguments are known."""
    given = {a.name: LaunchConfiguration(a.name).perform(context) for a in ARGUMENTS}
    sim = given["sim"]
    params_file = Path(given["params_file"]).expanduser()
    if not params_file.is_file():  # launch_ros would warn and start without it
        raise RuntimeError(f"params_file {str(params_file)!r} does not exist")
    keys = yaml.safe_load(params_file.read_text())
    if not isinstance(keys, dict) or list(keys) != ["/**"]:
        # Among several keys that match a node, the order in the file decides, and ours could lose.
        raise RuntimeError(f"params_file {str(params_file)!r}: its one key must be /**")

    # A killed launch leaves nobody behind who moves the robot.
    every = {"exit_with_parent": True}
    shared = every | {"use_sim_time": given["use_sim_time"] == "true"}
    if given["use_sim_time"] == "auto":
        shared["use_sim_time"] = sim != "none"
    if given["policy"]:  # a string, also where the folder is named 7
        shared["policy"] = ParameterValue(given["policy"], value_type=str)
    gate = given["gate"] == "true"
    # The launch file has the last word here: only it knows whether this is a simulation of its own.
    parameters = shared | {
        "enable_on_start": sim == "mujoco",
        "gate": "outside" if gate else "inside",
    }
    if given["autostart"]:
        parameters["autostart"] = given["autostart"] == "true"
    # Before the file, so that the file wins.
    world = given["world"]
    default_policy = [] if given["policy"] or sim != "mujoco" else ["-p", f"policy:={world}"]

    all_of_them = {
        "package": "qgf_ros",
        "namespace": given["namespace"],
        "output": "screen",
        "on_exit": ended,
    }
    log_level = ["--log-level", given["log_level"]]
    # Named, because launch_ros then writes `parameters` under the full name, which beats any /**.
    found = [
        Node(
            executable="qgf_node",
            name="qgf",
            parameters=[params_file, parameters],
            ros_arguments=[*log_level, *default_policy],
            **all_of_them,
        )
    ]
    if gate:
        found.append(
            Node(
                executable="qgf_gate",
                name="qgf_gate",
                parameters=[params_file, shared, {"owners": given["owners"]}],
                ros_arguments=[*log_level, *default_policy],
                **all_of_them,
            )
        )
    if sees(given["policy"] or keys["/**"].get("ros__parameters", {}).get("policy") or world):
        found.append(
            Node(
                executable="qgf_encoder",
                name="qgf_encoder",
                parameters=[params_file, shared],
                ros_arguments=[*log_level, *default_policy],
                **all_of_them | {"on_exit": None, "respawn": True, "respawn_delay": 0.5},
            )
        )
    if sim == "mujoco":
        found.append(
            Node(
                executable="qgf_sim",
                name="qgf_sim",
                parameters=[every, {"world": world}],
                ros_arguments=log_level,
                **all_of_them,
            )
        )
    return found


def sees(policy: str) -> bool:
    """Whether a policy has cameras, which are encoded by a process of their own. What is wrong with its
    folder is the node's to say."""
    try:
        return bool(list(find_policy(policy).glob("camera_*.onnx")))
    except Exception:
        return False


def ended(event: ProcessExited, context: LaunchContext) -> list[Shutdown] | None:
    """None is of use without the others: all end, and with code 1 if it was for an error."""
    if context.is_shutdown:
        return None
    if event.returncode:
        raise RuntimeError(f"{event.process_name} ended with code {event.returncode}")
    return [Shutdown(reason=f"{event.process_name} has finished")]
