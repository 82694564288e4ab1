"""The table of settings: the files are held to it, a policy resolves it, and a core obeys all of it."""

import dataclasses
import math
import re

import numpy as np
import pytest
import yaml
from qgf_make import (
    LateInference,
    Rig,
    contract,
    policy_in_memory,
    sample_of,
    settings,
    velocity_dict,
)

from qgf_ros.control.settings import BY_NAME, DEFAULTS, TABLE, Settings, read, resolve
from qgf_ros.control.spec import Spec
from qgf_ros.control.supervisor import State
from qgf_ros.errors import UsageError
from qgf_ros.files.share import share_folder
from qgf_ros.guidance.protocols import UNGUARDED, Guards
from qgf_ros.policy.description import Beta

CONFIG = share_folder() / "config"


def policy(default=0.22, floor=0.014, **time):
    return policy_in_memory(contract(**time), beta=Beta(default, floor))


# The files.


def parameters_of(name):
    content = yaml.safe_load((CONFIG / name).read_text())
    assert list(content) == ["/**"], "any other key is silently inert in a namespace"
    assert list(content["/**"]) == ["ros__parameters"]
    return content["/**"]["ros__parameters"]


@pytest.mark.parametrize("name", ["default.yaml", "golden.yaml"])
def test_a_parameter_file_names_known_parameters_with_allowed_values(name):
    for key, value in parameters_of(name).items():
        assert BY_NAME[key].checked(value) == value


def test_default_yaml_holds_every_parameter_at_its_default():
    given = parameters_of("default.yaml")
    unset = {s.name for s in TABLE if s.default is None}
    assert given == {s.name: s.default for s in TABLE if s.name not in unset}
    assert all(type(value) is BY_NAME[name].kind for name, value in given.items())
    commented = [line.strip(" #") for line in (CONFIG / "default.yaml").read_text().splitlines()]
    for name in unset:
        assert any(line.startswith(f"{name}: ") for line in commented), f"{name} is not explained"


def test_default_yaml_says_the_ranges_of_the_code():
    lines = {
        line.split(":")[0].strip(" #"): line
        for line in (CONFIG / "default.yaml").read_text().splitlines()
    }
    for spec in TABLE:
        for choice in spec.choices:
            assert choice in lines[spec.name]
        if math.isfinite(spec.high) and spec.high < 2**31:
            assert f"{spec.low:g} to {spec.high:g}" in lines[spec.name]


def test_golden_yaml_leaves_the_method_alone():
    given = parameters_of("golden.yaml")
    assert {"num_candidates": 1, "limits_scale": 1.0, "guidance.slew": 0.0} == {
        k: v for k, v in given.items() if not k.startswith("guidance.") or k == "guidance.slew"
    }
    assert resolve(given, policy()).guards == UNGUARDED
    named = {s.name for s in TABLE if s.name.startswith("guidance.")}
    assert named - {"guidance.only"} == {k for k in given if k.startswith("guidance.")}


def test_the_way_of_a_parameter_is_the_one_in_the_design():
    root = share_folder()
    section = (root / "docs/design.md").read_text().split("## The way of a parameter\n")[1]
    rows = [line for line in section.split("\n## ")[0].splitlines() if line.startswith("| `")]
    assert len(rows) >= 8
    for row in rows:
        file, *functions = re.findall(r"`([\w/.]+)`", row)
        source = (root / file).read_text()
        for name in functions:
            assert re.search(rf"\b{name}\(", source), (file, name)


# The table.


def test_the_table_is_short_enough_to_read_and_its_defaults_are_allowed():
    assert len(TABLE) <= 40 and len(BY_NAME) == len(TABLE)
    assert all(s.description.endswith(".") for s in TABLE)
    for spec in TABLE:
        assert spec.default is None or spec.checked(spec.default) == spec.default


def test_what_is_given_counts_and_the_rest_is_at_its_default():
    assert read({}) == DEFAULTS
    given = {
        "beta": 1,
        "guidance.only": "",
        "seed": None,
        "use_sim_time": True,
        "qos_overrides.x": 1,
    }
    got = read(given)
    assert got == {**DEFAULTS, "beta": 1.0} and type(got["beta"]) is float
    assert read({"owners": "a"}, foreign=["owners"]) == DEFAULTS
    with pytest.raises(UsageError, match="unknown parameters owners, sed; known: policy, "):
        read({"owners": "a", "sed": 1})


def test_unset_is_one_value_inside_and_what_ros_can_hold_outside():
    text, number = Spec("a", str, None, "."), Spec("b", float, None, ".")
    assert text.checked("") is None and text.shown(None) == "" and text.shown("x") == "x"
    assert math.isnan(number.shown(None)) and number.shown(0.5) == 0.5
    assert Spec("c", str, "x", ".").checked("") == "", "what has a default may be empty"
    with pytest.raises(UsageError, match="b is NaN"):
        number.checked(math.nan)


# With a policy.


def test_fault_027_beta_is_the_policys_until_somebody_sets_it_and_never_below_its_floor():
    assert resolve({}, policy()).beta == 0.22
    assert resolve({"beta": 0.014}, policy()).beta == 0.014
    assert resolve({"beta": math.inf}, policy()).beta == math.inf
    with pytest.raises(UsageError, match="beta is 0.0139; allowed: 0.014 to inf .*1/beta"):
        resolve({"beta": 0.0139}, policy())
    assert resolve({"beta": 0.0139}, policy(), fall_back=True).beta == 0.22
    assert resolve({"beta": 0.3}, policy(), fall_back=True).beta == 0.3


def test_real_time_chunking_needs_two_actions():
    given = {"real_time_chunking": True}
    assert resolve(given, policy(horizon=2, execute=2)).real_time_chunking
    for fall_back in (False, True):
        with pytest.raises(UsageError, match="real_time_chunking.*2 or more"):
            resolve(given, policy(horizon=1, execute=1), fall_back)


# A core obeys.


def swing(call, honest):
    """Motion without a pause, and chunks far apart."""
    steps = honest.action.shape[1] // 2
    ramp = 0.3 + (call % 2) * 0.6 + np.arange(steps) / 50
    return sample_of(np.tile(np.repeat(ramp, 2), (len(honest.action), 1)).astype(np.float32))


class Slow(LateInference):
    """Every answer comes a tick late, so that an early request pays."""

    def __init__(self, sampler):
        super().__init__(sampler, lambda i: 1)
        self.requests = []

    def submit(self, request):
        self.requests.append(request)
        super().submit(request)

    def poll(self, timeout):
        """How early a request is made must not depend on how fast this machine is."""
        result = super().poll(timeout)
        return result and dataclasses.replace(result, seconds=0.001)


OTHER = Settings(
    beta=0.5,
    seed=7,
    num_candidates=3,
    slew=5.0,
    guards=Guards(ratio_cap=0.5),
    limits_scale=0.1,
    checks=(),
    hold_if_frozen=True,
    blend_steps=2,
    real_time_chunking=True,
)


def driven(begin, **later):
    """What is asked and sent, where a sensor is stuck from the start and another goes astray."""
    own = contract(velocity_dict(rate=20.0, execute=3))
    rig = Rig(own, plan=swing, inference=Slow, **begin)
    rig.set(**later)
    for k in range(60):
        rig.state["goal"][:] = 1e3 if 40 <= k < 44 else 0.01 * k
        if k == 6:
            rig.set(beta=2 * rig.core.settings.beta)
        rig.step()
    asked = [
        (r.start, r.noise.tobytes(), r.weight, r.guards, np.array(r.committed).tobytes())
        for r in rig.inference.requests
    ]
    return asked, rig.log.tolist(), [t.state for t in rig.ticks]


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Settings)])
def test_a_setting_that_is_applied_is_one_that_the_core_was_made_with(name):
    other = {name: getattr(OTHER, name)}
    made = driven(other)
    assert State.RUN in made[2]
    assert driven({}, **other) == made
    assert driven({}) != made, "it makes a difference"


def test_a_core_is_at_the_settings_that_it_was_given():
    rig = Rig(seed=5)
    assert rig.core.settings == settings(rig.policy, seed=5)
    rig.core.apply(OTHER)
    assert rig.core.settings is OTHER
