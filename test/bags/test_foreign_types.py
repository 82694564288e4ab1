"""A bag of a robot with message types of its own is read by the definitions that the bag carries."""

import numpy as np
import pytest
from qgf_make import velocity_dict
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from qgf_ros.bags.sources import contract_sources
from qgf_ros.errors import DataRefused, UsageError
from qgf_ros.spaces.contract import Contract
from training.pipeline.readers.rosbag2 import Rosbag2Reader
from training.pipeline.writers.bag import BagWriter

OWN = "acme_msgs/msg/LowState"
DEFINITIONS = {
    "acme_msgs/msg/Motor": "float32 q\nfloat32 dq\nint8 mode\n",
    OWN: "std_msgs/Header header\nacme_msgs/Motor[2] motor\nuint32 tick\nstring mood\n",
}


def own_contract(*fields):
    value = velocity_dict()
    value["observations"][0] = {
        "name": "legs", "topic": "lowstate", "type": "acme_msgs/LowState", "stamp": "header",
        "fields": list(fields),
    }  # fmt: skip
    return Contract.from_dict(value)


@pytest.fixture(params=[StoragePlugin.MCAP, StoragePlugin.SQLITE3], ids=["mcap", "sqlite3"])
def bag(request, tmp_path):
    store = get_typestore(Stores.ROS2_KILTED)
    types = {}
    for name, text in DEFINITIONS.items():
        types |= get_types_from_msg(text, name)
    store.register(types)
    make = lambda name, **fields: store.types[name](**fields)  # noqa: E731
    with Writer(tmp_path / "bag", version=9, storage_plugin=request.param) as writer:
        own = writer.add_connection("/lowstate", OWN, typestore=store)
        goal = writer.add_connection("/goal", "geometry_msgs/msg/PointStamped", typestore=store)
        command = writer.add_connection(
            "/commands", "std_msgs/msg/Float64MultiArray", typestore=store
        )
        for i in range(5):
            stamp = make("builtin_interfaces/msg/Time", sec=10, nanosec=i)
            header = make("std_msgs/msg/Header", stamp=stamp, frame_id="")
            motors = [make("acme_msgs/msg/Motor", q=0.5 * i, dq=-0.5 * i, mode=j) for j in range(2)]
            point = make("geometry_msgs/msg/Point", x=1.0, y=0.0, z=0.0)
            layout = make("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
            for connection, msg in (
                (own, make(OWN, header=header, motor=motors, tick=i, mood="7")),
                (goal, make("geometry_msgs/msg/PointStamped", header=header, point=point)),
                (command, make("std_msgs/msg/Float64MultiArray", layout=layout, data=np.ones(2))),
            ):
                raw = store.serialize_cdr(msg, connection.msgtype)
                writer.write(connection, 11 * 10**9 + i, raw)
    return tmp_path / "bag"


def test_numbers_of_an_unknown_type_are_read_by_their_paths(bag):
    own = own_contract("motor.0.q", "motor.1.dq", "tick")
    stream = Rosbag2Reader().read(bag, ".", own).streams["legs"]
    assert stream.values.tolist() == [[0.5 * i, -0.5 * i, i] for i in range(5)]
    assert stream.stamp.tolist() == [10 * 10**9 + i for i in range(5)]
    assert own.observation_names[:3] == ("legs.motor.0.q", "legs.motor.1.dq", "legs.tick")


@pytest.mark.parametrize("path", ["motor.2.q", "motor.q", "nothing", "mood", "header"])
def test_a_path_that_is_not_there_refuses_the_bag(bag, path):
    with pytest.raises(DataRefused, match="lowstate"):
        Rosbag2Reader().read(bag, ".", own_contract(path))


def test_unknown_types_are_not_written(tmp_path):
    with pytest.raises(UsageError, match="acme_msgs/LowState.*not written"):
        BagWriter(tmp_path / "out", contract_sources(own_contract("tick")))
    assert not (tmp_path / "out").exists()
