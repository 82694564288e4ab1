"""What was heard on the wire as a bag, with definitions, as a recorder leaves it behind."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

MESSAGES = Path(__file__).resolve().parents[2] / "msg"


def write_bag(path: Path, heard: Iterable[tuple[int, str, type, Any]]) -> None:
    """heard: (receipt in ns, topic, its type, rclpy message or what stood on the wire)."""
    store = get_typestore(Stores.ROS2_KILTED)
    for file in MESSAGES.glob("*.msg"):
        store.register(get_types_from_msg(file.read_text(), f"qgf_ros/msg/{file.stem}"))
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        connections: dict[str, Any] = {}
        for receipt, topic, kind, msg in sorted(heard, key=lambda row: row[0]):
            if topic not in connections:
                name = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
                connections[topic] = bag.add_connection(topic, name, typestore=store)
            raw = msg if isinstance(msg, bytes) else serialize_message(msg)
            bag.write(connections[topic], receipt, raw)
