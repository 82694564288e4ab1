"""Cameras in training: what is learnt from images, what of it the policy holds, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import qgf_cameras
import yaml
from qgf_make import contract

torch = pytest.importorskip("torch")
pytest.importorskip("simplejpeg")

from qgf_ros.errors import CriterionNotMet, PolicyRefused, UsageError  # noqa: E402
from qgf_ros.images.fit import fit as fitted  # noqa: E402
from qgf_ros.policy.folder import load_policy  # noqa: E402
from training.export import camera as export  # noqa: E402
from training.learn.cameras import CameraEncoders, encoded, tables, with_features  # noqa: E402
from training.learn.config import FitConfig  # noqa: E402
from training.learn.critics import learner_of  # noqa: E402
from training.learn.critics.batch import ChunkBatch  # noqa: E402
from training.learn.fit import fit  # noqa: E402
from training.learn.models import Critic, VelocityField  # noqa: E402
from training.pipeline.frames import Frames  # noqa: E402

TINY = FitConfig(hidden=(32, 32), steps=40, batch=32, flow_draws=2, workers=1, critic="monte_carlo")
OWN = contract(qgf_cameras.camera_dict())
RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "contract.yaml").write_text(yaml.safe_dump(qgf_cameras.camera_dict()))
    for k in range(8):
        qgf_cameras.write(folder / "bags" / f"{k}", OWN, seed=k)
    return folder


@pytest.fixture(scope="module")
def trained(bags):
    """A policy that has learnt for a moment; -> its folder, with the bags."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QGF_CACHE", str(bags / "cache"))
        fit(bags / "bags", bags / "contract.yaml", bags / "run", TINY)
    return bags


def frames(count=20):
    return Frames([RNG.integers(0, 256, (count, 12, 16, 3), dtype=np.uint8)], [(64, 48)])


def batch(rows=8, count=20):
    obs = RNG.normal(size=(rows, 11)).astype(np.float32)
    obs[:, :6] = 0
    obs[:, 0] = RNG.integers(0, count, rows)
    after = obs.copy()
    after[:, 0] = RNG.integers(0, count, rows)
    one = torch.ones(rows)
    action = torch.from_numpy(RNG.normal(size=(rows, 10)).astype(np.float32))
    return ChunkBatch(torch.from_numpy(obs), action, one, one, torch.from_numpy(after), one)


def learner(kind, seen, average=0.0, **keys):
    torch.manual_seed(1)
    nets = VelocityField(11, 10, (16,)), Critic(11, 10, (16,), 2)
    config = replace(TINY, critic=kind, average=average, clip=float("inf"), **keys)
    return learner_of(kind).of(*nets, config, 11, 5, CameraEncoders(OWN, {0: seen}))


def test_features_take_the_columns_of_their_camera():
    encoders = CameraEncoders(OWN, {0: frames()})
    rows = batch()
    got = encoders(rows.obs)
    assert got.shape == (8, 11) and torch.equal(got[:, 6:], rows.obs[:, 6:])
    assert (got[:, :6].abs() < 1).all() and not torch.equal(got[:, :6], rows.obs[:, :6])
    middle = with_features(torch.zeros(2, 5), {1: torch.ones(2, 2), 4: 2 * torch.ones(2, 1)})
    assert middle.tolist() == [[0, 1, 1, 0, 2]] * 2


@pytest.mark.parametrize("kind", ["iql", "sarsa", "monte_carlo"])
@pytest.mark.parametrize("draws", [1, 3])
def test_both_losses_reach_the_encoder_and_as_in_one_backward_pass(kind, draws):
    """The features are cut off, so that the encoder is gone through once: the same gradient."""
    torch.manual_seed(0)
    mine, rows = learner(kind, frames()), batch()
    noise, time = torch.randn(draws * 8, 10), torch.rand(draws * 8)
    before = [p.clone() for p in mine.encoders.parameters()]
    mine.set_rate(0.0)
    mine.update(rows, noise, time)
    got = [p.grad.clone() for p in mine.encoders.parameters()]
    whole = mine.encoders.see(rows, mine.encoders.features(rows.obs), mine.has_value)
    parts = [loss for loss, _ in mine.losses(whole, noise, time)]
    expected = torch.autograd.grad(sum(parts), list(mine.encoders.parameters()), retain_graph=True)
    for a, b in zip(got, expected):
        torch.testing.assert_close(a, b)
    of_critic = torch.autograd.grad(parts[1], list(mine.encoders.parameters()))
    assert all(g.abs().sum() > 0 for g in of_critic), "the critic's gradient reaches the encoder"
    assert all(torch.equal(a, b) for a, b in zip(before, mine.encoders.parameters()))


def test_a_stopped_gradient_teaches_by_the_flow_alone_and_is_said(
    tmp_path, monkeypatch, capsys, bags
):
    torch.manual_seed(0)
    mine, rows = learner("monte_carlo", frames(), encoder_gradient="flow"), batch()
    noise, time = torch.randn(8, 10), torch.rand(8)
    metrics = mine.update(rows, noise, time)
    assert metrics["encoder_gradient_critic"] == 0
    assert any(p.grad.abs().sum() > 0 for p in mine.encoders.parameters()), "the flow's does"
    for given, said in ((TINY, False), (replace(TINY, encoder_gradient="flow"), True)):
        out = tmp_path / given.encoder_gradient
        monkeypatch.setenv("QGF_CACHE", str(tmp_path / "cache"))
        fit(bags / "bags", bags / "contract.yaml", out, replace(given, steps=5))
        assert ("never reached the cameras' encoders" in capsys.readouterr().err) == said


def test_a_learner_with_cameras_goes_on_where_it_was():
    seen, rows = frames(), [batch() for _ in range(4)]
    draws = [(torch.randn(8, 10), torch.rand(8)) for _ in rows]
    whole, half = learner("iql", seen, 0.9), learner("iql", seen, 0.9)
    for row, draw in zip(rows, draws):
        whole.update(row, *draw)
    for row, draw in zip(rows[:2], draws):
        half.update(row, *draw)
    again = learner("iql", seen, 0.9)
    again.load_state(half.state())
    for row, draw in zip(rows[2:], draws[2:]):
        again.update(row, *draw)
    assert again.state().keys() == whole.state().keys()
    assert all(torch.equal(again.state()[k], t) for k, t in whole.state().items())
    assert any(k.startswith("averaged_encoders.") for k in whole.state())
    assert again.sight is again.averaged_encoders


def test_episodes_with_features_have_no_frames(tmp_path, monkeypatch):
    monkeypatch.setenv("QGF_CACHE", str(tmp_path / "cache"))
    from training.pipeline import store

    qgf_cameras.write(tmp_path / "bag", OWN)
    arrays, _ = store.prepare(tmp_path / "bag", OWN)
    encoders = CameraEncoders(OWN, arrays.frames).requires_grad_(False)
    found = encoded(arrays, tables(encoders))
    assert not found.frames and len(found) == len(arrays) and found.digests == arrays.digests
    numbers = torch.from_numpy(np.array(arrays.obs))
    torch.testing.assert_close(torch.from_numpy(found.obs), encoders(numbers))
    assert not encoded([], {})


@pytest.mark.xdist_group("export")
def test_a_policy_holds_the_encoder_as_the_robot_runs_it(trained):
    policy = load_policy(trained / "run" / "policy")
    d = policy.description
    assert d.schema == 4 and [c.camera for c in d.cameras] == ["wrist"]
    assert d.cameras[0].size == (64, 48) and d.cameras[0].parity < 1e-4
    assert len(d.cameras[0].probe) == 3 * 6
    assert policy.contract.recorded == OWN and policy.contract.hash == OWN.hash
    heard = policy.contract.observations[0]
    assert (heard.topic, heard.type) == ("qgf_encoder/wrist", "qgf_ros/Features")
    assert policy.contract.observation_names == OWN.observation_names and policy.obs_dim == 11
    assert not policy.contract.bounded[:6].any() and policy.contract.bounded[6:].all()
    assert (policy.normalizer.obs_mean[:6] == 0).all() and (
        policy.normalizer.obs_std[:6] == 1
    ).all()
    session = export.session_of(policy.cameras["wrist"])
    image = qgf_cameras.picture((0.3, 0.6))
    (features,) = session.run(None, {"image": image})
    assert features.shape == (6,) and (np.abs(features) < 1).all()


@pytest.mark.xdist_group("export")
def test_the_report_of_training_says_what_the_camera_is_worth(trained):
    found = json.loads((trained / "run" / "report.json").read_text())["cameras"]
    assert list(found["each"]) == ["wrist"] and found["q_spread"] > 0
    assert found["each"]["wrist"]["q"]["mean"] > 0 and found["each"]["wrist"]["action"]["mean"] > 0


@pytest.mark.xdist_group("export")
def test_another_ones_encoder_is_refused_where_it_is_opened(trained):
    """What the file answers is compared with what was trained, on this machine."""
    from qgf_ros.images.encoder import CameraEncoder

    policy = load_policy(trained / "run" / "policy")
    CameraEncoder(policy, "wrist")
    torch.manual_seed(3)
    spec = OWN.observations[0].image
    from training.encoders.small import Encoder

    other = export.export_camera(Encoder(spec.shape, 6).eval(), spec, (64, 48))
    with pytest.raises(PolicyRefused, match="from what was trained"):
        CameraEncoder(replace(policy, cameras={"wrist": other}), "wrist")


@pytest.mark.xdist_group("export")
def test_damaged_cameras_are_refused(trained, tmp_path):
    """Each with a manifest of its own that is right."""
    import shutil

    from qgf_ros.policy.manifest import MANIFEST, write_files

    def changed(name, change):
        folder = tmp_path / name
        files = {p.name: p.read_bytes() for p in (trained / "run" / "policy").iterdir()}
        files.pop(MANIFEST)
        change(files)
        write_files(folder, files)
        return folder

    def described(old, new):
        def change(files):
            text = files["policy.yaml"].decode()
            assert old in text
            files["policy.yaml"] = text.replace(old, new, 1).encode()

        return change

    for name, change, words in (
        ("gone", lambda f: f.pop("camera_wrist.onnx"), "camera_wrist.onnx is missing"),
        ("more", lambda f: f.update({"camera_x.onnx": b""}), "camera_x.onnx', which no component"),
        ("schema", described("schema: 4", "schema: 3"), "cameras need 4"),
        ("other", described("camera: wrist", "camera: tool"), "files is"),
        ("parity", described("parity:", "parity: 1.0 #"), "parity is 1.0"),
        ("size", described("size: [64, 48]", "size: [64]"), r"size is \[64\]; .* 1 to 16384 pixels"),
        ("probe", described("probe: [", "probe: [0.5, "), "probe of wrist has 19 numbers, and each image has 6"),
    ):
        with pytest.raises(PolicyRefused, match=words):
            load_policy(changed(name, change))
    shutil.rmtree(tmp_path)


@pytest.mark.xdist_group("export")
@pytest.mark.parametrize(
    "keys, size",
    [
        ({"channels": "rgb"}, (640, 480)),
        ({"channels": "mono", "crop": (0.1, 0.2, 0.5, 0.7)}, (101, 77)),
        ({"channels": "depth", "range": (0.2, 2.0)}, (64, 48)),
    ],
    ids=["rgb", "mono", "depth"],
)
def test_the_robot_scales_as_training_does_to_the_bit(keys, size):
    """An encoder that shows what it is shown."""
    spec = export.ImageSpec((12, 10), **keys)

    class Shown(torch.nn.Module):
        def forward(self, image):
            return image.to(torch.float32).flatten(1)

    session = export.session_of(export.export_camera(Shown(), spec, size))
    images = [*export.flat(spec, size), *export.fresh(spec, size, 5)]
    for image in images:
        (got,) = session.run(None, {"image": image})
        assert np.array_equal(got, fitted(spec, image).ravel())
    assert session.get_inputs()[0].shape == [size[1], size[0], spec.shape[2]]


@pytest.mark.xdist_group("export")
def test_a_file_that_does_something_else_is_not_written():
    spec, size = export.ImageSpec((12, 10)), (64, 48)
    torch.manual_seed(0)
    one, other = (export_small(spec) for _ in range(2))
    with pytest.raises(CriterionNotMet, match="nothing was written"):
        export.camera_parity(other, spec, size, export.export_camera(one, spec, size))


def export_small(spec):
    from training.encoders.small import Encoder

    return Encoder(spec.shape, 4).eval()


def test_what_cannot_be_learnt_is_refused(trained):
    unknown = qgf_cameras.camera_dict(encoder={"kind": "huge", "features": 6})
    (trained / "other.yaml").write_text(yaml.safe_dump(unknown))
    with pytest.raises(
        UsageError, match="wrist: encoder 'huge' is not known; allowed: small, frozen"
    ):
        fit(trained / "bags", trained / "other.yaml", trained / "other", TINY)
