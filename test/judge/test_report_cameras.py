"""What each camera is worth, what it saw, and where on it Q hangs: on policies that read one camera of two."""

import base64
import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import qgf_cameras
from browser import browser, chromium
from qgf_make import contract, description, tensors
from qgf_report import subject

torch = pytest.importorskip("torch")
simplejpeg = pytest.importorskip("simplejpeg")

from qgf_ros.policy.description import CameraComponent  # noqa: E402
from qgf_ros.policy.folder import load_policy, write_policy  # noqa: E402
from qgf_ros.spaces.observations.image import ImageSpec  # noqa: E402
from training.export.camera import camera_parity, export_camera, probe  # noqa: E402
from training.judge.analysis.base import Model  # noqa: E402
from training.judge.cameras import ALL, masked, worth  # noqa: E402
from training.judge.data import policy_episodes  # noqa: E402
from training.judge.pages.report_page import render_report  # noqa: E402
from training.judge.panels.cameras import figures as panel  # noqa: E402
from training.judge.panels.cameras.saliency import (  # noqa: E402
    GRID,
    PATCHES,
    cells,
    features_behind,
    usual,
)
from training.judge.pictures import Pictures  # noqa: E402
from training.judge.report import examine, report  # noqa: E402

COLUMNS = {"wrist": slice(0, 3), "side": slice(3, 5)}
SIZE = (64, 48)  # of the cameras' images


def reads_wrist_alone(bias=0.0):
    """Q is the sum of the first camera's features, and an action goes there by as much."""

    def critic(obs, action):
        q = obs[:, :3].sum(1) + 0.1 * action.sum(1) + bias
        return torch.stack([q, q])

    def velocity(obs, a, time):
        return 0.1 * obs[:, :1] - a

    return Model(velocity, critic, torch.arange(4).view(4, 1) / 4)


def states(count=600):
    random = torch.Generator().manual_seed(4)
    obs = torch.randn(count, 7, generator=random)
    return obs, 0.1 * torch.randn(count, 6, generator=random), np.arange(count) // 20


def test_the_camera_that_is_read_has_worth_and_the_other_none():
    """By what a normal number's distance to its mean is: sqrt(2 / pi) of its deviation."""
    obs, action, episode = states()
    found = worth(reads_wrist_alone(), obs, action, episode, torch.zeros(7), COLUMNS, 0.5)
    wrist, side, both = (found["each"][name] for name in ("wrist", "side", ALL))
    assert wrist["q"]["mean"] == pytest.approx(math.sqrt(2 / math.pi), abs=0.05)
    assert wrist["q"]["low"] > 0.6 and wrist["q_most"] == pytest.approx(1.645, abs=0.2)
    assert abs(wrist["rise"]["mean"]) < 0.1
    assert found["q_spread"] == pytest.approx(math.sqrt(3), rel=0.1)
    assert wrist["action"]["low"] > 0.03
    for figure in ("q", "rise", "action"):
        assert side[figure] == {"mean": 0.0, "low": 0.0, "high": 0.0}
        assert both[figure]["mean"] == pytest.approx(wrist[figure]["mean"], abs=1e-6)


def test_a_mask_is_the_mean_of_the_data_and_changes_no_other_number():
    obs, mean = torch.randn(5, 7), torch.arange(7.0)
    found = masked(obs, mean, COLUMNS["side"])
    assert (found[:, 3:5] == mean[3:5]).all() and torch.equal(found[:, [0, 1, 2, 5, 6]], obs[:, [0, 1, 2, 5, 6]])
    # A camera that always says its mean is worth nothing, however much Q makes of it.
    some, action, episode = states()
    some[:, :3] = mean[:3]
    each = worth(reads_wrist_alone(), some, action, episode, mean, COLUMNS, 0.5)["each"]
    assert each["wrist"]["q"]["mean"] == each["wrist"]["action"]["mean"] == 0


def test_a_critic_that_says_the_same_everywhere_has_no_spread():
    obs, action, episode = states(40)
    flat = replace(reads_wrist_alone(), critic=lambda o, a: 0 * a.sum(1).expand(2, -1) + 0 * o[:, 0])
    found = worth(flat, obs, action, episode, torch.zeros(7), COLUMNS, math.inf)
    assert math.isnan(found["q_spread"]) and math.isnan(found["each"]["wrist"]["q"]["mean"])


@pytest.mark.parametrize("crop", [(0.0, 0.0, 1.0, 1.0), (0.25, 0.0, 0.5, 1.0)])
def test_the_map_is_highest_where_the_informative_pixels_are(crop):
    """An encoder that looks at one place of what it is shown, and a light there in this image alone."""
    spec = ImageSpec((16, 12), crop=crop)
    left, width = round(crop[0] * 64), round(crop[2] * 64)
    place = (slice(12, 20), slice(left + width // 2, left + width // 2 + 6))

    def encode(image):
        return image[place].astype(np.float32).mean(keepdims=True).ravel()

    plain = np.full((48, 64, 3), 30, np.uint8)
    there = usual([plain, plain, plain + 2])
    assert (there == 30).all() and there.dtype == np.uint8
    lit = plain.copy()
    lit[place] = 250
    lit[40:, left : left + 6] = 250  # as bright, and nobody looks
    found = features_behind(lit, there, spec, encode)
    assert found.shape == (PATCHES, 1)
    heat = cells(torch.from_numpy(250 - found[:, 0])).numpy()
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 12 <= (row + 0.5) * 48 / GRID <= 20
    assert width // 2 - 1 <= (column + 0.5) * width / GRID <= width // 2 + 7
    assert heat[8:, :2].max() == 0 and heat.max() > 20


class Whereabouts(torch.nn.Module):
    """The red of an image, weighed by how far right and how far down it is: another light, other features."""

    def forward(self, image):
        red = image[..., 0].to(torch.float32) / 255
        down, right = (torch.linspace(0.2, 1, n) for n in red.shape[1:])
        return torch.stack([(red * right).mean((1, 2)), (red * down[:, None]).mean((1, 2))], 1)


def write_policy_of(folder, own, scale=400):
    """Its networks see the first camera, and no other, and the joints."""
    net, made = Whereabouts().eval(), {}
    for o in own.cameras:
        onnx = export_camera(net, o.image, SIZE)
        parity = camera_parity(net, o.image, SIZE, onnx)
        asked = probe(net, o.image, SIZE)
        made[o.name] = CameraComponent(o.name, "small", (f"camera_{o.name}.onnx",), SIZE, parity, asked), onnx
    told = description(own, schema=4, cameras=tuple(about for about, _ in made.values()))
    weights = tensors(own, told)
    for part in weights.values():
        part["layers.0.weight"][:, 0:2] *= scale  # features differ by a few hundredths
        part["layers.0.weight"][:, 2 : 2 * len(made)] = 0
    write_policy(folder, told, weights, {a.file: onnx for a, onnx in made.values()})


def two_cameras():
    value = qgf_cameras.camera_dict(features=2)
    side = value["observations"][0] | {"name": "side", "topic": "side/image_raw"}
    value["observations"].insert(1, side)
    return value


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory):
    """-> the report's document and page, of a policy whose networks are blind to `side`."""
    folder = tmp_path_factory.mktemp("cameras")
    own = contract(two_cameras())
    for k in range(4):
        qgf_cameras.write(folder / "bags" / f"{k}", own, episodes=4, seed=k)
    write_policy_of(folder / "policy", own)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QGF_CACHE", str(folder / "cache"))
        document = report(folder / "policy", folder / "bags", folder / "report.html")
    return document, folder / "report.html"


@pytest.mark.xdist_group("export")
def test_a_report_says_which_camera_a_policy_reads(looked_at):
    document, _ = looked_at
    found = document["cameras"]["worth"]
    assert list(found["each"]) == ["wrist", "side", ALL]
    wrist, side = found["each"]["wrist"], found["each"]["side"]
    assert wrist["q"]["low"] > 0.2 and wrist["action"]["low"] > 0
    assert side["q"]["mean"] == side["action"]["mean"] == 0


@pytest.mark.xdist_group("export")
def test_the_pictures_are_those_of_the_clicked_moment(looked_at):
    """Of each camera its own: the light on it is where the features of that moment say."""
    document, _ = looked_at
    frames, episodes = document["cameras"]["frames"], document["timeline"]["episodes"]
    assert [len(f) for f in frames] == [len(e["moments"]) for e in episodes]
    shown = 0
    for moments in frames:
        for one in moments:
            images = {n: one[n]["picture"] for n in ("wrist", "side")}
            assert all(uri.startswith("data:image/jpeg;base64,") for uri in images.values())
            assert images["wrist"] != images["side"]
            assert one["side"]["q"] == one["side"]["action"] == 0
            picture = simplejpeg.decode_jpeg(base64.b64decode(images["wrist"].split(",")[1]))
            assert picture.shape == (48, 64, 3)
            heat = unpacked(one["wrist"]["map"]["q"])
            assert unpacked(one["side"]["map"]["q"]).max() < 1e-4  # sums of other blocks of rows
            y, x = np.argwhere(picture[..., 0] > 200).mean(0)
            row, column = np.unravel_index(heat.argmax(), heat.shape)
            assert abs((row + 0.5) * 48 / GRID - y) < 10 and abs((column + 0.5) * 64 / GRID - x) < 13
            shown += 1
    assert shown == document["cameras"]["maps"] == document["cameras"]["moments"] > 20


def unpacked(packed):
    assert packed["bits"] == 8
    codes = np.frombuffer(base64.b64decode(packed["data"]), np.uint8).astype(float)
    return (packed["low"] + codes * (packed["high"] - packed["low"]) / 254).reshape(packed["shape"])


@pytest.mark.xdist_group("export")
@pytest.mark.parametrize("kind", ["image", "video"])
def test_pictures_are_found_again_whatever_recordings_are_called(tmp_path, kind):
    """A LeRobot dataset, whose episodes are not named as the files that they are read from."""
    value = qgf_cameras.camera_dict(features=2, column="observation.images.wrist")
    value["observations"][1]["column"] = "observation.state[0:4]"
    value["observations"][2]["column"] = "observation.state[4:5]"
    value["actions"][0]["column"] = "action"
    value["outcome"] = {"objective": "time_to_success", "assume_success": True}
    own, rng = contract(value), np.random.default_rng(1)
    lights = rng.uniform(size=(3, 10, 2))
    images = [np.stack([qgf_cameras.picture(light) for light in one]) for one in lights]
    numbers = [[rng.normal(size=(10, n)) / 10 for _ in range(3)] for n in (5, 2)]
    qgf_cameras.lerobot(tmp_path / "set", images, *numbers, kind=kind)
    write_policy_of(tmp_path / "policy", own)
    policy = load_policy(tmp_path / "policy")
    episodes = policy_episodes(policy, tmp_path / "set", None, 1)
    asked = [(episode, tick) for episode in episodes for tick in (0, 4, 7)]
    for (episode, tick), view in zip(asked, Pictures(policy, tmp_path / "set").of(asked)):
        number = int(episode.name.split("_")[-1].split(".")[0])
        there, here = (np.argwhere(i[..., 0] > 140).mean(0) for i in (images[number][tick], view["wrist"]))
        assert np.abs(there - here).max() < 2, "the light of that tick, as it was compressed"
    strange = replace(episodes[0], obs=episodes[0].obs + 1)
    assert Pictures(policy, tmp_path / "set").of([(strange, 0)]) == [{"wrist": None}]


@pytest.mark.xdist_group("export")
def test_the_pictures_of_a_page_keep_within_its_room(looked_at, monkeypatch):
    rng = np.random.default_rng(0)
    views = [{"top": rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)} for _ in range(6)]
    specs = {"top": ImageSpec((16, 12))}
    whole = panel._drawn(views, specs)
    assert len(whole) == 6
    monkeypatch.setattr(panel, "TEXT", 30_000)
    smaller = panel._drawn(views, specs)
    assert len(smaller) == 6 and sum(len(uri) for _, _, uri in smaller) <= 30_000
    monkeypatch.setattr(panel, "TEXT", 10_000)
    fewer = panel._drawn(views, specs)
    assert 0 < len(fewer) < 6 and sum(len(uri) for _, _, uri in fewer) <= 11_000


def test_a_report_without_cameras_has_nothing_of_them(tmp_path, monkeypatch):
    """Nor is anything of them imported."""
    judge = "training.judge"
    own = [f"{judge}.{name}" for name in ("cameras", "pictures", "panels.cameras", "panels.cameras.figures")]
    for name in own:
        monkeypatch.delitem(sys.modules, name)
    document = examine(subject(tmp_path / "policy", count=4))
    assert "cameras" not in document and "cameras" not in document["held_out"]
    page = render_report(document)
    assert not set(own) & set(sys.modules)
    for word in ('id="frames"', "told.cameras", "What each camera", "frames .view", "data:image/jpeg"):
        assert word not in page


@pytest.mark.skipif(not chromium(), reason="no Chromium here; sudo apt-get install chromium")
@pytest.mark.xdist_group("export")
def test_a_click_shows_what_the_cameras_saw_and_a_map_on_it(looked_at):
    document, file = looked_at
    assert file.stat().st_size < 8e6
    with browser() as page:
        page.open(file.as_uri(), 700, 400)
        page.value("drawAll()")
        for moment in (1, 2):
            page.value(f"look({{ episode: 0, moment: {moment} }}), drawAll()")
            shown = page.value("[...document.querySelectorAll('#frames img')].map(i => i.src)")
            one = document["cameras"]["frames"][0][moment]
            assert shown == [one["wrist"]["picture"], one["side"]["picture"]]
        assert page.value("document.querySelectorAll('#frames canvas').length") == 0
        page.click("input[name=map][value=q]")
        assert page.value("document.querySelectorAll('#frames canvas').length") == 2
        words = page.value("document.querySelector('#frames').innerText")
        assert "wrist" in words and "spreads of Q" in words
        strongest = page.value(
            "[...document.querySelectorAll('#frames canvas')].map(c => Math.max("
            "...c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((_, i) => i % 4 === 3)))"
        )
        assert strongest == [210, 0]
        page.click("input[name=map][value='']")
        assert page.value("document.querySelectorAll('#frames canvas').length") == 0
        assert page.value("document.documentElement.scrollWidth") <= 700
        outside = [url for url in page.requests if not url.startswith("data:")]
        assert page.errors == [] and outside == [file.as_uri()]


@pytest.mark.xdist_group("export")
def test_the_panel_shows_the_figures_of_report_json(looked_at):
    document, _ = looked_at
    assert document["cameras"]["worth"] == document["held_out"]["cameras"]
    assert "masked" in document["held_out"]["cameras"]["meaning"]
    json.dumps(document, allow_nan=False)
