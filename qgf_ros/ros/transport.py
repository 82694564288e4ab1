"""How the processes that command a robot talk: over UDP, not through memory shared with others.

Fast DDS, the usual middleware of ROS 2, hands messages between processes of one machine through shared
memory, and locks a reader's queue while it lays one in. A reader that is stopped while it holds that lock
(SIGSTOP, a debugger, a machine without memory) then holds up everybody who publishes to it, for a second a
message: a frozen recorder of the gate's status would keep the gate from stopping the robot.
"""

from __future__ import annotations

import os

from qgf_ros.files.share import share_folder

TRANSPORTS = "FASTDDS_BUILTIN_TRANSPORTS"
PROFILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
RANGE, ONLY = "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOCALHOST_ONLY"


def share_no_memory() -> None:
    """Call before rclpy.init. Other middlewares do not read what this sets; a person's own transports or
    profiles of Fast DDS stand. Where only this machine is to be heard, rmw_fastrtps adds shared memory
    itself: the same range comes then from a profile of ours, without it. ROS_STATIC_PEERS beside that range
    cannot be said in a profile, and leave it as it was."""
    if any(os.environ.get(name) for name in (TRANSPORTS, *PROFILES)):
        return
    os.environ[TRANSPORTS] = "UDPv4"
    here = os.environ.get(RANGE) == "LOCALHOST" or os.environ.get(ONLY) == "1"
    if here and not os.environ.get("ROS_STATIC_PEERS"):
        os.environ.pop(ONLY, None)
        os.environ[RANGE] = "SYSTEM_DEFAULT"
        os.environ[PROFILES[0]] = str(share_folder() / "config" / "fastdds_localhost.xml")
