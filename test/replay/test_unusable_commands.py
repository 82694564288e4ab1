"""A recorded command that cannot be used: training and replay both take it as one that nobody knows,
and neither puts an older one in its place."""

import numpy as np
import pytest
from qgf_bags import T
from qgf_make import SECOND, START, contract, twist_dict

pytest.importorskip("rosbags")

from rosbags.highlevel import AnyReader

from qgf_ros.bags.sources import contract_sources
from qgf_ros.bags.writer import RawBag
from qgf_ros.replay.events import BagEvents
from qgf_ros.replay.player import Commands
from training.pipeline.align import align
from training.pipeline.readers.rosbag2 import Rosbag2Reader
from training.pipeline.report import Report
from training.pipeline.writers.bag import BagWriter

TICKS, BAD = 40, (10, 11, 25)
OWN = contract(twist_dict())


def said(k, name, source):
    """Numbers that differ from tick to tick."""
    if name == "tool":
        return np.array([0.1, 0, 0, 0, 1, 0.3])
    return np.full(len(source.labels), 0.01 * (k + 1))


def spoilt(raw, how, store, kind):
    msg = store.deserialize_cdr(raw, kind)
    if how == "cut short":
        return raw[:-5]
    if how == "noise":
        return b"\x00\x01\x00\x00" + bytes(range(200, 240))
    if how == "no message at all":
        return b""
    if how == "not finite":
        msg.twist.linear.x = float("nan")
    elif how == "beyond float32":
        msg.twist.linear.z = 1e300
    elif how == "of another frame":
        msg.header.frame_id = "tool0"
    else:  # by another clock
        msg.header.stamp.sec += {"stamped ahead": 1, "stamped long ago": -1000}[how]
    return bytes(store.serialize_cdr(msg, kind))


HOW = ("cut short", "noise", "no message at all", "not finite", "beyond float32", "of another frame",
       "stamped ahead", "stamped long ago")  # fmt: skip


def bag(path, how):
    """One episode whose arm commands of the ticks BAD are no use."""
    sources = contract_sources(OWN)
    with BagWriter(path / "whole", sources) as whole:
        for k in range(TICKS):
            for name, source in sources.items():
                if name not in ("episode_start", "success"):
                    at = START + k * T
                    whole.write(name, at, at + SECOND // 1000, said(k, name, source))
    with AnyReader([path / "whole"]) as reader:
        topics = {c.topic: c.msgtype.replace("/msg/", "/") for c in reader.connections}
        copy, seen = RawBag(path / "bag", topics, reader.typestore), 0
        for connection, at, raw in reader.messages():
            if connection.topic.strip("/") == "servo/twist":
                if seen in BAD:
                    raw = spoilt(raw, how, reader.typestore, connection.msgtype)
                seen += 1
            copy.write(connection.topic, at, raw)
        copy.close()
    return path / "bag"


@pytest.mark.parametrize("how", HOW)
def test_what_cannot_be_used_is_bridged_neither_by_training_nor_by_replay(tmp_path, how):
    path = bag(tmp_path, how)
    commands = Commands(OWN)
    events = BagEvents(path, "", OWN)
    for event in events:
        if event.name in commands:
            commands.add(event)
    ticks = START + T * np.arange(TICKS, dtype=np.int64)
    replayed = commands.at(ticks, T)
    assert np.flatnonzero(np.isnan(replayed[:, 0])).tolist() == list(BAD)
    report = Report()
    episodes = align(Rosbag2Reader().read(path, "", OWN), OWN, report)
    learnt = np.concatenate([e.action for e in episodes])
    assert [len(e) for e in episodes] == [9, 13, 14], "of the first tick the state is not known yet"
    known = [k for k in range(1, TICKS) if k not in BAD]
    assert np.allclose(learnt, replayed[known], atol=1e-6)
