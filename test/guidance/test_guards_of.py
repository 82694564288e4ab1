"""Guidance parameters that mean nothing, together or with the policy, are refused with a reason."""

import dataclasses

import pytest
from qgf_make import contract, policy_in_memory

from qgf_ros.control.settings import resolve
from qgf_ros.errors import UsageError
from qgf_ros.guidance.protocols import UNGUARDED, Guards
from qgf_ros.policy.description import Support

BOX = Support((-0.5,) * 10, (0.5,) * 10)


def policy(members=2, support=BOX):
    p = policy_in_memory(contract(), support=support)
    critic = dataclasses.replace(p.description.critic, members=members)
    return dataclasses.replace(p, description=dataclasses.replace(p.description, critic=critic))


def of(own=None, **values):
    given = {f"guidance.{name}": value for name, value in values.items()}
    return resolve(given, own or policy()).guards


def test_everything_off_is_no_guard():
    assert of() == UNGUARDED
    assert of(policy(members=1, support=None)) == UNGUARDED


def test_every_parameter_is_its_guard():
    got = of(support=True, disagreement=0.1, skip_first=1, last=2, only=" arm.b, arm.a ",
             ratio_cap=2.0, keep_best=True)  # fmt: skip
    assert got == Guards(1, 2, 0.1, ("arm.b", "arm.a"), True, 2.0, True)


@pytest.mark.parametrize(
    "values, own, why",
    [
        ({"only": "arm.a,elbow"}, None, "names elbow; the policy's actions are arm.a, arm.b"),
        ({"skip_first": 4}, None, "skip_first is 4 of 4 denoising steps"),
        ({"skip_first": 999, "last": 1}, None, "allowed: up to 3"),
        ({"support": True}, policy(support=None), "stores no range of its data"),
        ({"disagreement": 0.1}, policy(members=1), "1 member"),
    ],
)
def test_fault_031_what_does_not_fit_is_refused_with_a_reason(values, own, why):
    with pytest.raises(UsageError, match=why):
        of(own, **values)
