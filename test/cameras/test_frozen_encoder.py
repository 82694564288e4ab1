"""An ONNX file of the user's own as a camera's encoder: from the contract to the robot, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import qgf_cameras
import yaml
from qgf_make import contract

torch = pytest.importorskip("torch")
pytest.importorskip("simplejpeg")
onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from qgf_ros.bags.sources import contract_sources  # noqa: E402
from qgf_ros.errors import PolicyRefused, UsageError  # noqa: E402
from qgf_ros.images.encoder import CameraEncoder  # noqa: E402
from qgf_ros.images.fit import fit as fitted  # noqa: E402
from qgf_ros.policy.folder import load_policy  # noqa: E402
from qgf_ros.policy.vetting import vetted_policy  # noqa: E402
from training.encoders.frozen import Encoder  # noqa: E402
from training.export import camera as export  # noqa: E402
from training.learn.config import FitConfig  # noqa: E402
from training.learn.fit import fit  # noqa: E402

pytestmark = pytest.mark.xdist_group("export")
TINY = FitConfig(hidden=(16,), steps=10, batch=16, workers=1, critic="monte_carlo")
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
SEED = 5


def node(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs, [output], **attributes)


def weight(name, values):
    return numpy_helper.from_array(values, name)


def model(nodes, weights, shape, element=TensorProto.FLOAT, opset=17, features=6, **keys):
    graph = helper.make_graph(
        nodes, "own", [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [shape[0], features])], weights,
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], **keys)
    made.ir_version = 9
    return made.SerializeToString()


def network(shape=("N", 3, 12, 16), element=TensorProto.FLOAT, opset=17, features=6):
    """A convolution and the means of its planes; the output is named as ours is."""
    rng = np.random.default_rng(SEED)
    kernel = rng.normal(size=(features, 3, 3, 3)).astype(np.float32) / 5
    nodes, last = [], "x"
    if element == TensorProto.UINT8:
        nodes.append(node("Cast", [last], "float", to=TensorProto.FLOAT))
        nodes.append(node("Mul", ["float", "small"], "scaled"))
        last = "scaled"
    if shape[3] == 3:
        nodes.append(node("Transpose", [last], "planes", perm=[0, 3, 1, 2]))
        last = "planes"
    nodes += [
        node("Conv", [last, "kernel"], "seen", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["seen"], "image"),
        node("GlobalAveragePool", ["image"], "pooled"),
        node("Flatten", ["pooled"], "features"),
    ]
    weights = [weight("kernel", kernel), weight("small", np.float32(1 / 255))]
    used = {i for n in nodes for i in n.input}
    return model(nodes, [w for w in weights if w.name in used], shape, element, opset, features)


def expected(shown, mean=(0, 0, 0), std=(1, 1, 1), white=1.0, features=6):
    """(B, H, W, C) uint8 -> (B, F), by torch's convolution."""
    kernel = np.random.default_rng(SEED).normal(size=(features, 3, 3, 3)).astype(np.float32) / 5
    x = (shown.astype(np.float64) / 255 * white - np.array(mean)) / np.array(std)
    x = torch.from_numpy(x).permute(0, 3, 1, 2)
    seen = torch.nn.functional.conv2d(x, torch.from_numpy(kernel).double(), stride=2, padding=1)
    return seen.relu().mean((2, 3)).numpy()


def own(**keys):
    encoder = {"kind": "frozen", "features": 6, "file": "own.onnx"} | keys
    return qgf_cameras.camera_dict(latency=0.02, encoder=encoder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A policy that has learnt for a moment behind a frozen encoder, with the bags."""
    folder = tmp_path_factory.mktemp("frozen")
    (folder / "contract.yaml").write_text(yaml.safe_dump(own(mean=MEAN, std=STD)))
    (folder / "own.onnx").write_bytes(network())
    recorded = contract(own(mean=MEAN, std=STD))
    lights = [qgf_cameras.write(folder / "bags" / f"{k}", recorded, seed=k) for k in range(4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QGF_CACHE", str(folder / "cache"))
        fit(folder / "bags", folder / "contract.yaml", folder / "run", TINY)
    return folder, lights


def test_a_policy_holds_the_users_file_behind_the_cameras_scaling(trained):
    folder, lights = trained
    policy = load_policy(folder / "run" / "policy")
    (about,) = policy.description.cameras
    assert (about.kind, about.size) == ("frozen", (64, 48)) and about.parity < 1e-5
    assert len(policy.description.provenance["encoders"]["wrist"]) == 64
    encoder = CameraEncoder(policy, "wrist")
    spec = policy.contract.recorded.observations[0].image
    images = [qgf_cameras.picture(light) for light in lights[0][:5]]
    got = np.stack([encoder.features(image) for image in images])
    wanted = expected(np.stack([fitted(spec, image) for image in images]), MEAN, STD)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert vetted_policy(folder / "run" / "policy", cameras=True).sha256 == policy.sha256


def test_its_features_are_normalised_as_any_other_numbers(trained):
    folder, lights = trained
    policy = load_policy(folder / "run" / "policy")
    spec = policy.contract.recorded.observations[0].image
    shown = np.stack([fitted(spec, qgf_cameras.picture(light)) for light in np.concatenate(lights)])
    features = expected(shown, MEAN, STD)
    mean, std = policy.normalizer.obs_mean[:6], policy.normalizer.obs_std[:6]
    # Chunks do not weigh all images alike, and a part of the episodes is held out.
    assert np.abs(mean - features.mean(0)).max() < 0.5 * features.std(0).max()
    np.testing.assert_allclose(std, features.std(0), rtol=0.3)


def test_features_in_replay_are_those_that_were_trained_on(trained, tmp_path, monkeypatch):
    from qgf_ros.replay.events import BagEvents
    from qgf_ros.replay.run import encoders_of
    from training.pipeline import store
    from training.pipeline.features import frozen_encoders, with_features

    folder, lights = trained
    monkeypatch.setenv("QGF_CACHE", str(folder / "cache"))
    recorded = contract(own(mean=MEAN, std=STD))
    policy = folder / "run" / "policy"
    events = BagEvents(
        folder / "bags" / "0", ".", load_policy(policy).contract, encoders_of(policy)
    )
    said = np.stack([e.values for e in events if e.name == "wrist"])
    assert len(said) == len(lights[0])
    arrays, _ = store.prepare(folder / "bags", recorded)
    learnt = with_features(arrays, recorded, frozen_encoders(recorded, folder))
    assert not learnt.frames and np.array_equal(learnt.obs[:, 6:], arrays.obs[:, 6:])
    first = learnt[0].obs[:, :6]
    off = np.abs(first[:, None] - said[None]).max(2).min(1)
    assert len(first) == 12 and (off < 1e-5).all()


def test_features_are_made_once_and_what_is_damaged_is_made_anew(
    trained, tmp_path, monkeypatch, capsys
):
    from training.pipeline import features, store

    folder, _ = trained
    monkeypatch.setenv("QGF_CACHE", str(tmp_path / "cache"))
    recorded = contract(own(mean=MEAN, std=STD))
    arrays, _ = store.prepare(folder / "bags", recorded)
    encoders = features.frozen_encoders(recorded, folder)
    shown, forward = [], Encoder.forward
    monkeypatch.setattr(
        Encoder, "forward", lambda net, image: shown.append(len(image)) or forward(net, image)
    )
    good = np.array(features.with_features(arrays, recorded, encoders).obs)
    assert sum(shown) == len(arrays.frames[0])
    again = features.with_features(arrays, recorded, encoders)
    assert sum(shown) == len(arrays.frames[0]) and np.array_equal(again.obs, good)
    files = sorted((tmp_path / "cache" / "features").glob("*.features"))
    assert len(files) == 4
    files[0].write_bytes(files[0].read_bytes()[:-4] + b"\1\2\3\4")
    files[1].unlink()
    files[1].mkdir()
    files[2].unlink()
    files[2].symlink_to(files[3])
    assert np.array_equal(features.with_features(arrays, recorded, encoders).obs, good)
    assert "".join(capsys.readouterr().err.split()).count("preparedanew") == 3
    other = contract(own(mean=[0.0, 0.0, 0.0], std=STD))
    changed = features.with_features(arrays, other, features.frozen_encoders(other, folder))
    assert not np.allclose(changed.obs[:, :6], good[:, :6]) and changed.digests != again.digests
    assert len(list((tmp_path / "cache" / "features").glob("*.features"))) == 8


SHAPES = [
    ("planes, any number", ("N", 3, 12, 16), TensorProto.FLOAT, {"mean": MEAN, "std": STD}),
    ("planes, one", (1, 3, 12, 16), TensorProto.FLOAT, {"white": 255.0}),
    ("planes, three at once", (3, 3, 12, 16), TensorProto.FLOAT, {}),
    (
        "open height and width",
        ("N", 3, "H", "W"),
        TensorProto.FLOAT,
        {"white": 255.0, "mean": [1.0, 2.0, 3.0]},
    ),
    ("rows", ("N", 12, 16, 3), TensorProto.FLOAT, {"std": STD}),
    ("bytes", ("N", 12, 16, 3), TensorProto.UINT8, {}),
    ("bytes in planes", (1, 3, 12, 16), TensorProto.UINT8, {}),
]


@pytest.mark.parametrize(
    "shape, element, keys", [s[1:] for s in SHAPES], ids=[s[0] for s in SHAPES]
)
def test_every_form_of_input_is_shown_what_the_contract_says(tmp_path, shape, element, keys):
    (tmp_path / "own.onnx").write_bytes(network(shape, element))
    source = contract(own(**keys)).observations[0]
    encoder = Encoder(source, tmp_path)
    images = export.fresh(source.image, (64, 48), 3, 7)
    shown = np.stack([fitted(source.image, image) for image in images])
    wanted = expected(shown, **{k: v for k, v in keys.items()})
    np.testing.assert_allclose(
        encoder(torch.from_numpy(shown)).numpy(), wanted, rtol=1e-4, atol=1e-4
    )
    made = export.export_camera(encoder, source.image, (64, 48))
    session = export.session_of(made)
    got = np.stack([session.run(None, {"image": image})[0] for image in images])
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    assert session.get_inputs()[0].shape == [48, 64, 3] and session.get_outputs()[0].shape == [6]


@pytest.mark.parametrize("opset", [17, 23])
def test_files_of_other_operator_sets_are_joined(tmp_path, opset):
    (tmp_path / "own.onnx").write_bytes(network(opset=opset))
    source = contract(own()).observations[0]
    encoder = Encoder(source, tmp_path)
    made = export.export_camera(encoder, source.image, (64, 48))
    assert export.camera_parity(encoder, source.image, (64, 48), made) < 1e-5


def test_what_torch_exports_is_taken(tmp_path):
    """A transformer, by the exporter of today with its notes."""
    torch.manual_seed(0)

    class Vision(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = torch.nn.Conv2d(3, 16, 4, 4)
            self.place = torch.nn.Parameter(torch.randn(1, 12, 16) / 4)
            self.block = torch.nn.TransformerEncoderLayer(
                16, 2, 32, batch_first=True, activation="gelu"
            )
            self.head = torch.nn.Linear(16, 6)

        def forward(self, x):
            tokens = self.patches(x).flatten(2).transpose(1, 2) + self.place
            return self.head(self.block(tokens).mean(1))

    net = Vision().eval()
    example = torch.zeros(2, 3, 12, 16)
    torch.onnx.export(
        net, (example,), tmp_path / "own.onnx", dynamo=True, opset_version=18, verbose=False,
        external_data=False, dynamic_shapes=({0: torch.export.Dim("n")},),
    )  # fmt: skip
    source = contract(own(white=255.0)).observations[0]
    encoder = Encoder(source, tmp_path)
    made = export.export_camera(encoder, source.image, (64, 48))
    assert export.camera_parity(encoder, source.image, (64, 48), made) < 1e-4
    shown = np.random.default_rng(0).integers(0, 256, (2, 12, 16, 3), dtype=np.uint8)
    with torch.no_grad():
        wanted = net(torch.from_numpy(shown).permute(0, 3, 1, 2).float())
    torch.testing.assert_close(encoder(torch.from_numpy(shown)), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "keys, words",
    [
        ({"file": "../own.onnx"}, "below the contract's folder"),
        ({"file": "/etc/own.onnx"}, "below the contract's folder"),
        ({"file": "own.pth"}, "path of an ONNX file"),
        ({"file": ""}, "belongs to frozen"),
        ({"white": 100.0}, "white is 100; allowed: 1 or 255"),
        ({"std": [0.1, 0.0, 0.1]}, "std above 0"),
        ({"mean": [0.1]}, "encoder.mean has 1 numbers, and channels rgb needs 3"),
        ({"kind": "small", "file": "", "white": 255.0}, "white, mean and std are of frozen alone"),
        ({"scale": 2.0}, "unknown key 'scale'"),
    ],
)
def test_what_a_contract_may_not_say_is_refused(keys, words):
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        contract(own(**keys))


def hostile():
    """file, words of the refusal."""
    planes = ("N", 3, 12, 16)
    inner = helper.make_graph(
        [node("Identity", ["x"], "z")], "i", [], [helper.make_tensor_value_info("z", 1, None)]
    )
    far = TensorProto(name="k", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    far.external_data.add(key="location", value="/etc/passwd")
    conv = [node("Conv", ["x", "k"], "y")]
    huge = [node("Expand", ["x", "s"], "y")]
    yield network()[:200], "cut short"
    yield b"", "0 graphs"
    yield (
        model([node("If", ["x"], "features", then_branch=inner, else_branch=inner)], [], planes),
        "a graph, a tensor",
    )
    yield model([node("Loop", ["x"], "features")], [], planes), "operator 'Loop'"
    yield model([node("NonZero", ["x"], "features")], [], planes), "operator 'NonZero'"
    yield model(conv, [far], planes), "another file"
    yield model([node("Conv", ["x", "k"], "y", domain="evil")], [], planes), "domain 'evil'"
    yield (
        model(
            [
                node("Shape", ["x"], "a"),
                node("ReduceSum", ["x"], "b"),
                node("Expand", ["x", "b"], "y"),
            ],
            [],
            planes,
        ),
        "depend on",
    )
    yield (
        model(huge, [weight("s", np.array([2**14, 3, 2**12, 2**12], np.int64))], planes),
        "too much memory",
    )
    f = helper.make_function("d", "Add", ["x"], ["y"], [], [helper.make_opsetid("", 17)])
    yield model([node("Neg", ["x"], "features")], [], planes, functions=[f]), "functions"
    yield model([node("Neg", ["x"], "features")], [], planes, opset=11), "operator set 11"
    padded = [
        node("MaxPool", ["x"], "y", kernel_shape=[1, 1], pads=[0] * 4, strides=[1, 1]),
        node("Tile", ["y", "s"], "t"),
        node("GlobalAveragePool", ["t"], "features"),
    ]
    yield model(padded, [weight("s", np.array([1, 1, 2**13, 2**13], np.int64))], planes), "own.onnx"
    yield network(features=7), r"gives \(16, 7\) .* features: 7"
    yield network(("N", 3, 24, 16)), r"takes .* and image says 16 x 12"
    yield network(("N", "C", 12, 16)), r"takes .* and image says"
    yield network(element=TensorProto.DOUBLE), "."
    yield (
        model(
            [
                node("Div", ["x", "z"], "a"),
                node("GlobalAveragePool", ["a"], "b"),
                node("Tile", ["b", "t"], "c"),
                node("Flatten", ["c"], "features"),
            ],
            [weight("z", np.float32(0)), weight("t", np.array([1, 2, 1, 1], np.int64))],
            planes,
        ),
        "not finite",
    )


@pytest.mark.parametrize("content, words", hostile())
def test_fault_120_a_file_that_is_no_encoder_is_not_opened(tmp_path, content, words):
    (tmp_path / "own.onnx").write_bytes(content)
    with pytest.raises(UsageError, match=words):
        Encoder(contract(own()).observations[0], tmp_path)


def test_a_file_that_is_not_there_or_is_no_file_is_refused_before_data_is_read(trained, tmp_path):
    folder, _ = trained
    (tmp_path / "contract.yaml").write_text(yaml.safe_dump(own()))
    with pytest.raises(UsageError, match="No such file .* below the contract's folder"):
        fit(folder / "bags", tmp_path / "contract.yaml", tmp_path / "run", TINY)
    (tmp_path / "own.onnx").mkdir()
    with pytest.raises(UsageError, match="a folder"):
        fit(folder / "bags", tmp_path / "contract.yaml", tmp_path / "run", TINY)
    assert not (tmp_path / "run").exists()


def test_fault_120_a_policys_encoder_that_loops_is_not_opened(trained):
    folder, _ = trained
    policy = load_policy(folder / "run" / "policy")
    evil = model([node("Loop", ["x"], "features")], [], ("N", 3, 12, 16))
    with pytest.raises(PolicyRefused, match="operator 'Loop' is none of an encoder's"):
        CameraEncoder(replace(policy, cameras={"wrist": evil}), "wrist")


def test_contracts_without_the_new_keys_keep_their_hash():
    small = contract(qgf_cameras.camera_dict())
    assert set(small.to_dict()["observations"][0]["encoder"]) == {"kind", "features", "file"}
    assert json.dumps(
        contract(own(mean=MEAN)).to_dict()["observations"][0]["encoder"]["mean"]
    ) == str(MEAN)
    assert contract_sources(small)
