"""Cameras in replay: images are encoded as on the robot, and what an encoder published is believed."""

import json
from pathlib import Path

import numpy as np
import pytest
import qgf_cameras
import yaml
from qgf_make import START, contract

torch = pytest.importorskip("torch")
pytest.importorskip("simplejpeg")
from rosbags.typesys import get_types_from_msg  # noqa: E402

from qgf_ros.bags.sources import contract_sources  # noqa: E402
from qgf_ros.images.encoder import CameraEncoder  # noqa: E402
from qgf_ros.policy.folder import load_policy  # noqa: E402
from qgf_ros.replay.events import BagEvents  # noqa: E402
from qgf_ros.replay.run import encoders_of  # noqa: E402
from training.learn.config import FitConfig  # noqa: E402
from training.learn.fit import fit  # noqa: E402
from training.pipeline.writers.bag import BagWriter, _store  # noqa: E402

pytestmark = pytest.mark.xdist_group("export")
TINY = FitConfig(hidden=(16,), steps=10, batch=16, workers=1, critic="monte_carlo")
OWN = contract(qgf_cameras.camera_dict(latency=0.02))
PERIOD = qgf_cameras.PERIOD


@pytest.fixture(scope="module", autouse=True)
def message_type():
    """The writers know the types of recordings; this is one of ours."""
    text = (Path(__file__).parents[2] / "msg/Features.msg").read_text()
    _store().register(get_types_from_msg(text, "qgf_ros/msg/Features"))


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replayed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QGF_CACHE", str(folder / "cache"))
        (folder / "contract.yaml").write_text(yaml.safe_dump(OWN.to_dict()))
        for k in range(4):
            qgf_cameras.write(folder / "bags" / f"{k}", OWN, seed=k)
        fit(folder / "bags", folder / "contract.yaml", folder / "run", TINY)
    return folder / "run" / "policy"


def heard(path, policy):
    loaded = load_policy(policy)
    events = BagEvents(path, ".", loaded.contract, encoders_of(policy))
    return [e for e in events if e.name == "wrist"], events


def test_images_are_encoded_as_on_the_robot_and_known_as_late_as_the_contract_says(
    policy, tmp_path
):
    lights = qgf_cameras.write(tmp_path / "bag", OWN, episodes=1, torn={(0, 5)})
    said, events = heard(tmp_path / "bag", policy)
    encoder = CameraEncoder(load_policy(policy), "wrist")
    kept = [k for k in range(len(lights)) if k != 5]
    assert len(said) == len(kept) and sum(events.losses.values()) == 1
    for event, k in zip(said, kept):
        assert event.stamp == START + k * PERIOD and event.at == event.stamp + 20_000_000
        assert np.array_equal(event.values, encoder.features(qgf_cameras.picture(lights[k])))


def features(bag, sources, stamp, receipt, values, sha256, reason=""):
    msg = bag.make(
        "qgf_ros/Features", header=bag._header(stamp, ""), camera="wrist", policy=sha256, reason=reason,
        detail="", values=np.asarray(values, np.float32),
    )  # fmt: skip
    bag._put("wrist", receipt, msg)


@pytest.mark.parametrize("whose", ["its own", "another's"])
def test_what_the_encoder_published_for_this_policy_is_what_the_node_heard(policy, tmp_path, whose):
    loaded = load_policy(policy)
    sha256 = loaded.sha256 if whose == "its own" else "0" * 64
    images = {"image": OWN.observations[0]}
    sources = contract_sources(loaded.contract) | images
    light = qgf_cameras.picture((0.5, 0.5))
    with BagWriter(tmp_path / "bag", sources) as bag:
        for k in range(6):
            at = START + k * PERIOD
            for name in ("joints", "goal"):
                bag.write(name, at, at, np.zeros(len(sources[name].labels)))
            bag.write_image("image", at, at + 1000, light)
            features(bag, sources, at, at + 5_000_000, np.full(6, 0.25), sha256)
            features(bag, sources, at, at + 5_000_000, [], sha256, "IMAGE_BLACK")
    said, events = heard(tmp_path / "bag", policy)
    assert not events.losses
    known = [e for e in said if np.array_equal(e.values, np.full(6, 0.25))]
    if whose == "its own":
        assert len(known) == 6 and all(e.at == e.stamp + 5_000_000 for e in known)
        assert len(said) <= 7, "an image is encoded only until features are there"
    else:
        assert not known and len(said) == 6 and all(e.at == e.stamp + 20_000_000 for e in said)


def test_the_replay_of_a_bag_with_images_is_the_same_however_often(policy, tmp_path):
    from qgf_ros.replay.run import Plan, document, replay

    qgf_cameras.write(tmp_path / "bag", OWN)
    plan = Plan((policy,), (float("inf"),))
    one, two = (document(plan, replay(plan, [tmp_path / "bag"]), 0.0) for _ in range(2))
    for found in (one, two):
        del found["seconds"]
        del found["results"][0]["inference_ms"]
    assert one["ticks"] > 30 and json.dumps(one) == json.dumps(two)
