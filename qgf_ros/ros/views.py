"""Pictures of the current chunk for RViz and plotting tools, built only while somebody looks."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import Point
from rclpy.duration import Duration
from rclpy.node import Node
from std_msgs.msg import ColorRGBA
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from visualization_msgs.msg import Marker, MarkerArray

from qgf_ros.control.chunk import Chunk
from qgf_ros.ros import qos
from qgf_ros.ros.conversions import header
from qgf_ros.spaces.actions.spec import ActionSpec
from qgf_ros.spaces.contract import Contract

LINE_WIDTH, POINT_SIZE = 0.005, 0.012  # m


class Views:
    """`~/chunk`, the numbers, and `~/markers`, the paths of twists."""

    def __init__(self, node: Node) -> None:
        self._chunk = node.create_publisher(JointTrajectory, "~/chunk", qos.REPORT)
        self._markers = node.create_publisher(MarkerArray, "~/markers", qos.REPORT)

    def show(self, contract: Contract, chunk: Chunk) -> None:
        """To be called for each new chunk."""
        if self._chunk.get_subscription_count() > 0:
            self._chunk.publish(trajectory(contract, chunk))
        if self._markers.get_subscription_count() > 0:
            self._markers.publish(markers(contract, chunk))


def trajectory(contract: Contract, chunk: Chunk) -> JointTrajectory:
    """The chunk's actions, stamped with the first one's time, by the names of Command.

    Velocities and twists are `velocities`, all else `positions`; NaN where it is the other kind.
    """
    moving = contract.velocity_like
    positions = np.where(moving, np.nan, chunk.actions)
    velocities = np.where(moving, chunk.actions, np.nan)
    points = [
        JointTrajectoryPoint(
            positions=[] if moving.all() else positions[i].tolist(),
            velocities=velocities[i].tolist() if moving.any() else [],
            time_from_start=Duration(seconds=i * contract.time.period).to_msg(),
        )
        for i in range(len(chunk.actions))
    ]
    return JointTrajectory(
        header=header(chunk.start), joint_names=list(contract.action_names), points=points
    )


def markers(contract: Contract, chunk: Chunk) -> MarkerArray:
    """For each action that tells it, the path it leads along, from the origin of its frame; yellow
    now, red later. Joints have none: where they lead, only a model of the robot knows."""
    found, period = [], contract.time.period
    for spec in contract.actions:
        places = spec.kind.path(spec, chunk.actions[:, contract.action_slices[spec.name]], period)
        if places is not None:
            found += _drawn(spec, places, chunk.start, period)
    return MarkerArray(markers=found)


def _drawn(spec: ActionSpec, places: np.ndarray, start: int, period: float) -> list[Marker]:
    points = [Point(x=x, y=y, z=z) for x, y, z in places.tolist()]
    later = np.linspace(0.0, 1.0, len(points)).tolist()
    colors = [ColorRGBA(r=1.0, g=1.0 - t, b=0.0, a=1.0) for t in later]
    drawn = []
    for number, (kind, size) in enumerate(
        ((Marker.LINE_STRIP, LINE_WIDTH), (Marker.SPHERE_LIST, POINT_SIZE))
    ):
        marker = Marker(
            header=header(start, spec.frame or "base_link"),
            ns=spec.name,
            id=number,
            type=kind,
            action=Marker.ADD,
            points=points,
            colors=colors,
            lifetime=Duration(seconds=2 * period * len(points)).to_msg(),
        )
        marker.pose.orientation.w = 1.0
        marker.scale.x = marker.scale.y = marker.scale.z = size
        drawn.append(marker)
    return drawn
