"""The parity check of an exported sampler must be able to fail, and the fit must not trip over its data."""

import dataclasses
import shutil
from collections import Counter

import numpy as np
import pytest
import yaml
from qgf_make import contract, description, tensors, velocity_dict

from qgf_ros.errors import CriterionNotMet, DataRefused
from qgf_ros.guidance.backends import native
from qgf_ros.guidance.backends.native import NativeSampler
from qgf_ros.guidance.backends.table import HALF_TOLERANCE
from qgf_ros.guidance.protocols import UNGUARDED
from qgf_ros.policy.description import Support
from qgf_ros.policy.folder import load_policy, write_policy

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from training.export import parity as parity_module
from training.export import write as export_module
from training.pipeline.episodes import Episode, EpisodeArrays


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "tiny"
    own = contract()
    d = description(own, support=Support((-0.05,) * 10, (0.05,) * 10))
    weights = tensors(own, d)
    write_policy(folder, d, weights)
    return folder, export_module.export(folder)


class Tampered:
    """A sound sampler, with its action changed."""

    backend = "tampered"

    def __init__(self, policy, change=lambda action: action):
        self._real, self._change = NativeSampler(policy), change

    def __call__(self, obs, noise, weight, *guarded):
        sample = self._real(obs, noise, weight, *guarded)
        return dataclasses.replace(sample, action=self._change(sample.action.copy()))


def error(policy, sampler, monkeypatch, kinds=()):
    """By few inputs; of guards, those of `kinds`."""
    monkeypatch.setattr(parity_module, "ROUNDS", 1)
    monkeypatch.setattr(parity_module, "KINDS", kinds)
    return parity_module.parity(policy, sampler)[0].largest_error


def test_a_fresh_export_is_within_tolerance_and_loads(exported):
    folder, result = exported
    assert result.largest_error <= 1 and result.samples > 100
    assert result.native_error <= 1 and result.half_error < HALF_TOLERANCE
    policy = load_policy(folder)
    assert policy.onnx and policy.description.export == result


def test_without_the_native_sampler_the_export_says_so_and_measures_nothing_of_it(
    exported, tmp_path, monkeypatch
):
    shutil.copytree(exported[0], tmp_path / "p")
    monkeypatch.setattr(parity_module, "ROUNDS", 1)
    monkeypatch.setattr(parity_module, "KINDS", ())
    monkeypatch.setattr(export_module, "_onnx", lambda policy: policy.onnx)  # it takes seconds
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "none.so")
    native._library.cache_clear()
    result = export_module.export(tmp_path / "p")
    native._library.cache_clear()
    assert result.native_error is None and result.half_error is None
    assert "neither it nor half precision was checked" in export_module.summary(result)
    assert load_policy(tmp_path / "p").description.export == result


@pytest.mark.parametrize("backend", ["OnnxSampler", "NativeSampler"])
def test_an_export_whose_sampler_is_off_is_refused_and_nothing_written(
    exported, tmp_path, monkeypatch, backend
):
    shutil.copytree(exported[0], tmp_path / "p")
    before = load_policy(tmp_path / "p").sha256
    monkeypatch.setattr(parity_module, "ROUNDS", 1)
    monkeypatch.setattr(parity_module, "KINDS", ())
    monkeypatch.setattr(export_module, "_onnx", lambda policy: policy.onnx)
    monkeypatch.setattr(export_module, backend, lambda policy, *_: Tampered(policy, off_by_little))
    with pytest.raises(CriterionNotMet, match="the tampered sampler differs"):
        export_module.export(tmp_path / "p")
    assert load_policy(tmp_path / "p").sha256 == before


def off_by_little(action):
    action[-1, -1] += 1e-2 if action[-1, -1] < 0.5 else -1e-2
    return action


def not_a_number(action):
    action[-1, -1] = np.nan
    return action


def test_parity_sees_one_number_that_is_off(exported, monkeypatch):
    policy = load_policy(exported[0])
    assert error(policy, Tampered(policy), monkeypatch, parity_module.KINDS) <= 1
    assert error(policy, Tampered(policy, off_by_little), monkeypatch) > 1


class Forgetful(Tampered):
    """A sound sampler, which has not heard of one kind of guard."""

    forgotten = ""

    def __call__(self, obs, noise, weight, guards=UNGUARDED, committed=None):
        known = {f.name: f.default for f in dataclasses.fields(guards) if f.name == self.forgotten}
        known = dataclasses.replace(guards, **known)
        return self._real(
            obs, noise, weight, known, None if self.forgotten == "committed" else committed
        )


GUARDS = ["disagreement", "ratio_cap", "only", "skip_first", "last", "support", "committed"]


@pytest.mark.parametrize("name", GUARDS)
def test_parity_sees_a_guard_that_is_not_there(exported, monkeypatch, name):
    assert set(parity_module.KINDS) == {*GUARDS, "all"}
    monkeypatch.setattr(Forgetful, "forgotten", name)
    policy = load_policy(exported[0])
    assert error(policy, Forgetful(policy), monkeypatch, (name,)) > 1


@pytest.mark.parametrize("share", ["one", "all"])
def test_parity_sees_a_number_that_is_none(exported, monkeypatch, share):
    change = not_a_number if share == "one" else lambda action: np.full_like(action, np.nan)
    policy = load_policy(exported[0])
    found = error(policy, Tampered(policy, change), monkeypatch)
    assert not found <= 1, f"a sampler that answers NaN passes with an error of {found}"


class Sharp(Tampered):
    """A sound sampler, of a flow that is said to turn away sharply at some unguided rows."""

    rows = 1

    def __call__(self, obs, noise, weight, *guarded):
        sample = self._real(obs, noise, weight, *guarded)
        if weight > 0 or len(noise) < 16:
            return sample
        action = sample.action.copy()
        action[: self.rows, 0] += np.where(action[: self.rows, 0] < 0, 3e-5, -3e-5)
        return dataclasses.replace(sample, action=action)


@pytest.mark.parametrize("apart, rows, sound", [(0.5, 1, True), (0.05, 1, False), (0.5, 16, False)])
def test_unguided_samples_that_float32_cannot_decide_are_left_out_if_few(
    exported, monkeypatch, apart, rows, sound
):
    """As guided ones: only where the reference itself moves, and at most 5 % of them."""
    monkeypatch.setattr(Sharp, "rows", rows)
    monkeypatch.setattr(
        parity_module.Reference, "apart", lambda self, case, actions: np.full(len(actions), apart)
    )
    policy = load_policy(exported[0])
    assert (error(policy, Sharp(policy), monkeypatch) <= 1) == sound


def test_parity_that_compared_nothing_is_no_parity(tmp_path, monkeypatch):
    """Two members with the same weights tie everywhere: every guided sample is left out."""
    own = contract()
    d = description(own)
    weights = tensors(own, d)
    for name, value in weights["critic.safetensors"].items():
        weights["critic.safetensors"][name] = np.stack([value[0]] * 2)
    write_policy(tmp_path / "p", d, weights)
    policy = load_policy(tmp_path / "p")
    assert error(policy, NativeSampler(policy), monkeypatch) == np.inf


def test_fit_with_short_held_out_episodes(tmp_path, monkeypatch):
    """Enough to train on, but the episode that fell to the select split is shorter than a chunk."""
    from training.learn import fit as fit_module
    from training.learn import package as package_module
    from training.pipeline.report import Report

    rng = np.random.default_rng(0)

    def episode(k, steps):
        return Episode(
            f"e{k}",
            rng.normal(size=(steps + 1, 5)),
            rng.normal(size=(steps, 2)),
            rng.normal(size=steps),
            False,
        )

    split = fit_module.split([episode(k, 30) for k in range(10)], 0)
    episodes = [episode(k, 3 if k in split.select else 30) for k in range(10)]
    arrays = EpisodeArrays.of(episodes)
    monkeypatch.setattr(fit_module.store, "prepare", lambda *_: (arrays, Report(10, 273)))
    monkeypatch.setattr(
        package_module, "version", lambda _: "0"
    )  # also where the package is not installed
    path = tmp_path / "contract.yaml"
    path.write_text(yaml.safe_dump(velocity_dict()))
    config = fit_module.FitConfig(hidden=(8,), steps=2, batch=4, denoise_steps=2)
    fit_module.fit(tmp_path, path, tmp_path / "out", config)
    assert load_policy(tmp_path / "out" / "policy")


def test_fault_096_what_was_lost_is_said_by_the_result_and_refused_by_strict(tmp_path, monkeypatch):
    """Exit code 3 of `qgf train`; 5 with --strict, before anything is trained."""
    from training.learn import fit as fit_module
    from training.learn import package as package_module
    from training.pipeline.report import Report

    rng = np.random.default_rng(0)
    episodes = [
        Episode(f"e{k}", rng.normal(size=(31, 5)), rng.normal(size=(30, 2)), rng.normal(size=30), False)
        for k in range(10)
    ]  # fmt: skip
    lost = {"message not finite: joints": 3, "episode of zero length": 1}
    kept = {
        "tick without fresh data": 7,
        "episode excluded by its label": 2,
        "duplicate episode": 1,
    }
    report = Report(10, 300, Counter(lost | kept))
    arrays = EpisodeArrays.of(episodes)
    monkeypatch.setattr(fit_module.store, "prepare", lambda *_: (arrays, report))
    monkeypatch.setattr(package_module, "version", lambda _: "0")
    path = tmp_path / "contract.yaml"
    path.write_text(yaml.safe_dump(velocity_dict()))
    config = fit_module.FitConfig(hidden=(8,), steps=2, batch=4, denoise_steps=2)
    with pytest.raises(DataRefused, match="4 recorded messages or episodes"):
        fit_module.fit(tmp_path, path, tmp_path / "strict", config, strict=True)
    assert not (tmp_path / "strict" / "policy").exists()
    assert fit_module.fit(tmp_path, path, tmp_path / "out", config).lost == 4
