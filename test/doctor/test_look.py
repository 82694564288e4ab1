"""What `qgf data inspect` shows of cameras: pictures that a person can judge, and whether a policy sees them."""

import numpy as np
import pytest
import qgf_cameras
from qgf_make import contract

from training.doctor.cameras import Look
from training.doctor.check_cameras import cameras
from training.doctor.dataset import survey_dataset
from training.doctor.examine import strip
from training.doctor.summary import summarise
from training.draft.sources import source_name
from training.pipeline.streams import Signal, Stream, Survey

for needed in ("av", "simplejpeg", "pyarrow"):
    pytest.importorskip(needed)

T = 12
LIGHTS = np.random.default_rng(5).uniform(size=(2, T, 2))
IMAGES = [np.stack([qgf_cameras.picture(light) for light in of]) for of in LIGHTS]
STATES, ACTIONS = np.zeros((2, T, 5)), np.zeros((2, T, 2))


def looked_at(images, channels, topic="/camera/color/image_raw"):
    look = Look("sensor_msgs/Image")
    values = np.array([look.at(image) for image in images])
    stamp = np.arange(len(images)) * 10**8
    stream = Stream(stamp, stamp, values)
    labels = ("brightness", "dark", "bright", "change", "width", "height")
    signal = Signal(topic, "sensor_msgs/Image", labels, stream, channels=channels, pictures=tuple(look.pictures))
    return summarise(Survey("r", {topic: signal}, {}), (), 0.1).signals[topic]


def test_the_strip_of_a_colour_camera_has_its_colours():
    for shown in strip(looked_at(IMAGES[0], "rgb")):
        assert shown.shape == (36, 48, 3)
        red, blue = shown[..., 0].astype(int), shown[..., 2].astype(int)
        assert (red - blue).max() > 150, "the light is yellow, and not grey"


def test_the_strip_of_a_depth_tells_what_is_near_from_what_is_far():
    """A tenth of a metre of the ten that a camera may see."""
    depth = np.full((4, 48, 64), 1100, np.uint16)
    depth[:, 10:30, 10:40], depth[:, :, :6] = 1000, 0
    for shown in strip(looked_at(depth[..., None], "depth")):
        near, far, none = (int(shown[y, x, 0]) for y, x in ((15, 18), (30, 40), (15, 1)))
        assert none == 0 < 30 < near and far - near > 150


def test_the_strip_of_a_depth_of_nothing_is_black():
    assert not np.any(strip(looked_at(np.zeros((2, 48, 64, 1), np.uint16), "depth")))


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("column", ["observation.images.wrist", ""])
def test_a_table_s_camera_that_the_contract_names_is_seen(tmp_path, monkeypatch, version, column):
    monkeypatch.setenv("QGF_CACHE", str(tmp_path / "cache"))
    qgf_cameras.lerobot(tmp_path / "set", IMAGES, STATES, ACTIONS, version, "libx264", "video")
    told = qgf_cameras.camera_dict(**({"column": column} if column else {}))
    told["observations"][1]["column"], told["observations"][2]["column"] = "observation.state[0:4]", "observation.state[4:5]"
    check = cameras(survey_dataset(tmp_path / "set", contract(told)))
    assert "no policy sees it" not in check.found
    told["observations"] = told["observations"][1:]
    check = cameras(survey_dataset(tmp_path / "set", contract(told)))
    assert "observation.images.wrist: the contract does not name it" in check.found


@pytest.mark.parametrize(
    "topic, name",
    [
        ("/camera/color/image_raw", "color"),
        ("/camera/image_raw/compressed", "camera"),
        ("/camera/aligned_depth_to_color/image_raw", "aligned_depth_to_color"),
        ("/wrist/image_raw", "wrist"),
        ("/image_raw", "camera"),
        ("observation.images.front", "front"),
    ],
)
def test_a_drafted_camera_is_named_by_what_it_sees(topic, name):
    assert source_name(looked_at(IMAGES[0], "rgb", topic), set()) == name
