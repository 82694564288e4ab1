"""`qgf latency` on the wire: features whose delay is known, and everything that speaks against a proposal.

Here the encoder is this file's; beside the real one: test_encoder_node.py.
"""

import json
import sys
import threading
import time

import pytest
import ros_harness as ros
from qgf_cameras import camera_dict

LATENCY = [sys.executable, "-m", "qgf_ros.cli", "latency"]
DELAY = 0.080  # s, of what is published here


@pytest.fixture
def wire(domain):
    wire = ros.Wire(domain, "encoder_of_the_test")
    try:
        yield wire
    finally:
        wire.close()


class Encoder:
    """Publishes features, 50 a second, captured `delay` s ago."""

    def __init__(self, wire, topic="qgf_encoder/wrist", delay=DELAY, every=1, **fields):
        self.publisher = wire.node.create_publisher(ros.Features, topic, ros.QoSProfile(depth=10))
        self.delay, self.every, self.fields = delay, every, fields
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._publish, daemon=True)

    def _publish(self):
        count = 0
        while not self._ending.wait(0.02):
            count += 1
            stamp = time.time_ns() - round(self.delay * 1e9)
            said = self.fields if count % self.every == 0 else {}
            header = ros.Header(stamp=ros.time_msg(stamp))
            self.publisher.publish(ros.Features(header=header, camera="wrist", values=[0.0] * 6, **said))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ending.set()
        self._thread.join(2.0)


@pytest.fixture
def contract(tmp_path):
    path = tmp_path / "contract.yaml"
    path.write_text(json.dumps(camera_dict(latency=0.05)))
    return path


def measured(contract, domain, *options, seconds=2.0):
    """-> exit code, document, all that it said."""
    command = [*LATENCY, str(contract), "--seconds", str(seconds), "--json", *options]
    proc = ros.run_to_end(command, domain, timeout=60.0)
    return proc.process.returncode, json.loads("\n".join(proc.out)), "\n".join(proc.err)


def test_a_known_delay_is_measured_and_proposed_in_whole_milliseconds(wire, domain, contract):
    with Encoder(wire):
        code, found, said = measured(contract, domain)
    (camera,) = found["cameras"]
    assert code == 0 and camera["problem"] == "", said
    assert (camera["topic"], camera["contract_s"]) == ("/qgf_encoder/wrist", 0.05)
    assert camera["p50_ms"] == pytest.approx(1e3 * DELAY, abs=1e3 * ros.slack())
    assert DELAY <= camera["p50_ms"] / 1e3 <= camera["p95_ms"] / 1e3 <= camera["proposed_s"]
    assert camera["proposed_s"] - camera["p95_ms"] / 1e3 < 0.001, "rounded up, no further"
    assert camera["features"] == pytest.approx(found["seconds"] * camera["rate"])
    text = f"  - name: wrist\n    latency: {camera['proposed_s']:.3f}"
    assert text in said, "as it is written into the contract"


def test_where_nothing_came_the_topic_is_named(wire, domain, contract):
    code, found, said = measured(contract, domain, seconds=0.2)
    assert code == 2 and "nothing came on /qgf_encoder/wrist" in said
    assert found["cameras"][0]["features"] == 0 and found["cameras"][0]["p50_ms"] is None
    with Encoder(wire):
        code, _, said = measured(contract, domain, "--namespace", "left", seconds=0.2)
        assert code == 2 and "nothing came on /left/qgf_encoder/wrist" in said


@pytest.mark.parametrize(("given", "code", "words"), [
    ({"delay": -0.2}, 8, "were received before their capture, the worst by "),
    ({"delay": 4.0}, 8, "its clock is behind this machine's, or it is stamped in simulated time"),
    ({"detail": "the image has no stamp", "every": 5}, 8, "images have no stamp"),
    ({"reason": "IMAGE_BLACK", "detail": "black"}, 2, "only reasons: "),
], ids=["clock ahead", "clock behind", "unstamped", "reasons"])  # fmt: skip
def test_what_cannot_be_a_latency_is_not_proposed(wire, domain, contract, given, code, words):
    with Encoder(wire, **given):
        ended, found, said = measured(contract, domain)
    assert ended == code and words in said, said
    assert found["cameras"][0]["proposed_s"] is None and "latency: 0" not in said


def test_a_few_features_are_too_few(wire, domain, contract):
    with Encoder(wire):
        code, found, said = measured(contract, domain, seconds=0.4)
    assert code == 8 and "at least 50 are needed; listen longer" in said
    assert 0 < found["cameras"][0]["features"] < 50


def test_a_contract_without_cameras_has_no_latency(domain):
    proc = ros.run_to_end([*LATENCY, "planar_arm"], domain, timeout=60.0)
    assert proc.process.returncode == 2 and "has no cameras" in proc.log
