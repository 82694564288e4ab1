"""The node `qgf`, by default with the simulated arm, which then moves: a first look needs no argument.

On a robot: sim:=none policy:=FOLDER; nothing moves until `~/enable`.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = [
    DeclareLaunchArgument(
        "policy",
        default_value="",
        description="Policy folder, or a shipped policy's name. Default: params_file's, else the world's.",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=PathJoinSubstitution([FindPackageShare("qgf_ros"), "config", "default.yaml"]),
        description="Parameters of the node, under the key /**: (another key may not fit a namespace).",
    ),
    DeclareLaunchArgument(
        "namespace",
        default_value="",
        description="Of both nodes and their topics; /clock is shared.",
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
        description="Whether the node's time comes from /clock. auto: yes, unless sim is none.",
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
        description="Of both nodes: debug, info, warn, error or fatal.",
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

    # The launch file has the last word here: only it knows whether this is a simulation of its own.
    parameters = {
        "enable_on_start": sim == "mujoco",
        "use_sim_time": given["use_sim_time"] == "true",
    }
    if given["use_sim_time"] == "auto":
        parameters["use_sim_time"] = sim != "none"
    if given["policy"]:  # a string, also where the folder is named 7
        parameters["policy"] = ParameterValue(given["policy"], value_type=str)
    if given["autostart"]:
        parameters["autostart"] = given["autostart"] == "true"
    # Before the file, so that the file wins.
    world = given["world"]
    default_policy = [] if given["policy"] or sim != "mujoco" else ["-p", f"policy:={world}"]

    both = {
        "package": "qgf_ros",
        "namespace": given["namespace"],
        "output": "screen",
        "on_exit": ended,
    }
    log_level = ["--log-level", given["log_level"]]
    # Named, because launch_ros then writes `parameters` under the full name, which beats any /**.
    node = Node(
        executable="qgf_node",
        name="qgf",
        parameters=[params_file, parameters],
        ros_arguments=[*log_level, *default_policy],
        **both,
    )
    if sim != "mujoco":
        return [node]
    simulation = Node(
        executable="qgf_sim",
        name="qgf_sim",
        parameters=[{"world": world}],
        ros_arguments=log_level,
        **both,
    )
    return [simulation, node]


def ended(event: ProcessExited, context: LaunchContext) -> list[Shutdown] | None:
    """One is of no use without the other: all end, and with code 1 if it was for an error."""
    if context.is_shutdown:
        return None
    if event.returncode:
        raise RuntimeError(f"{event.process_name} ended with code {event.returncode}")
    return [Shutdown(reason=f"{event.process_name} has finished")]
