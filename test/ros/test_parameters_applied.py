"""The parameter table on a node, without the wire: checked without side effects, applied when
stored, on every ROS version.

Pinned: a value that was applied although another callback refused the request; integers that only
became doubles where rclpy calls back before a set, which Humble does not.
"""

import math

import pytest
import rclpy
from qgf_make import contract, policy_in_memory
from rcl_interfaces.msg import SetParametersResult
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter

from qgf_ros.control.settings import TABLE, resolve
from qgf_ros.errors import UsageError
from qgf_ros.policy.description import Beta
from qgf_ros.ros.parameters import Parameters, overrides

CALLBACKS = ("add_pre_set_parameters_callback", "add_post_set_parameters_callback")


class Owner(Node):
    """Has a policy, or none yet, as the node."""

    def __init__(self, context):
        super().__init__("owner", context=context, start_parameter_services=False)
        self.policy = None
        self.applied = []
        self.parameters = Parameters(self, self.applied.append, check=self.check)

    def check(self, values):
        if self.policy is not None:
            resolve(values, self.policy)

    def load(self, policy, fall_back=False):
        """As the node does at the start, and ~/load_policy with `fall_back`."""
        beta = resolve(self.parameters.values, policy, fall_back).beta
        self.policy = policy
        self.parameters.settle("beta", beta, policy.description.beta.min)
        return beta

    def set_parameters_atomically(self, parameter_list):
        return self.parameters.set(parameter_list, super().set_parameters_atomically)

    def ask(self, **values):
        given = [Parameter(name.replace("__", "."), value=value) for name, value in values.items()]
        return self.set_parameters_atomically(given)


@pytest.fixture(params=["as here", "as in Humble"])
def owner(request, monkeypatch, domain):
    if request.param == "as in Humble":
        for name in CALLBACKS:
            monkeypatch.delattr(Node, name)
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    node = Owner(context)
    yield node
    node.destroy_node()
    context.try_shutdown()


@pytest.mark.parametrize(
    ("given", "meant"), [(1, 1.0), ("inf", math.inf), (".inf", math.inf), (0.05, 0.05)]
)
def test_fault_025_what_is_stored_and_applied_is_a_double(owner, given, meant):
    assert owner.ask(beta=given).successful
    stored = owner.get_parameter("beta")
    assert stored.type_ is Parameter.Type.DOUBLE and stored.value == meant
    assert owner.parameters.values["beta"] == meant
    assert [values["beta"] for values in owner.applied] == [meant]


@pytest.mark.parametrize(
    "bad",
    [{"num_candidates": 0}, {"seed": 5}, {"beta": -1}, {"guidance__slew": math.nan}],
    ids=repr,
)
def test_fault_031_a_bad_one_applies_none(owner, bad):
    result = owner.ask(**{"limits_scale": 0.5, "beta": 0.3} | bad)
    assert not result.successful and result.reason
    assert owner.applied == []
    assert (
        owner.parameters.values["limits_scale"] == 1.0 == owner.get_parameter("limits_scale").value
    )


@pytest.mark.parametrize("when", ["before", "after"])
def test_fault_031_what_another_callback_refuses_is_not_applied(owner, when):
    """rclpy calls them in an order of its own: ours may be asked first."""
    ours = owner._on_set_parameters_callbacks[0]
    owner.remove_on_set_parameters_callback(ours)
    refuse = lambda _: SetParametersResult(successful=False, reason="not today")  # noqa: E731
    for callback in (ours, refuse) if when == "before" else (refuse, ours):
        owner.add_on_set_parameters_callback(callback)
    result = owner.ask(beta=0.3)
    assert not result.successful and result.reason == "not today"
    assert owner.applied == [] and owner.parameters.values["beta"] is None


def policy(default, floor):
    return policy_in_memory(contract(), beta=Beta(default, floor))


def test_fault_027_the_policy_raises_the_floor(owner):
    assert math.isnan(owner.get_parameter("beta").value)
    assert owner.load(policy(0.22, 0.014)) == 0.22 == owner.get_parameter("beta").value
    for low in (0.013, 0.0, -1):
        refused = owner.ask(beta=low)
        assert not refused.successful and "0.014 to inf" in refused.reason
    assert owner.ask(beta=0.014).successful
    assert [values["beta"] for values in owner.applied] == [0.22, 0.014]


def test_fault_118_what_nobody_has_set_is_the_next_policys(owner):
    """And what somebody has set stays until a policy does not allow it: then nobody has."""
    assert owner.load(policy(0.22, 0.014)) == 0.22
    assert owner.load(policy(0.3, 0.01), fall_back=True) == 0.3
    assert owner.ask(beta=0.05).successful
    assert owner.load(policy(0.22, 0.014), fall_back=True) == 0.05
    assert owner.load(policy(0.9, 0.5), fall_back=True) == 0.9 == owner.get_parameter("beta").value
    assert not owner.ask(beta=0.05).successful, "the floor follows"
    assert owner.load(policy(0.22, 0.014), fall_back=True) == 0.22
    assert owner.ask(beta=0.22).successful, "the same, but now it is somebody's"
    assert owner.load(policy(0.3, 0.01), fall_back=True) == 0.22


def test_a_text_is_unset_again_by_the_empty_one(owner):
    owner.load(policy(0.22, 0.014))
    assert owner.ask(guidance__only="arm.a").successful
    assert owner.parameters.values["guidance.only"] == "arm.a"
    assert owner.ask(guidance__only="").successful
    assert owner.parameters.values["guidance.only"] is None
    assert owner.get_parameter("guidance.only").value == ""


def test_fault_031_what_does_not_fit_the_policy_applies_none(owner):
    owner.load(policy(0.22, 0.014))
    before, applied = dict(owner.parameters.values), len(owner.applied)
    result = owner.ask(beta=0.3, guidance__only="arm.wrist")
    assert not result.successful and "arm.wrist" in result.reason
    assert owner.parameters.values == before and len(owner.applied) == applied
    assert owner.get_parameter("beta").value == 0.22


def test_fault_035_every_number_of_the_table_has_a_range_that_holds(owner):
    """FloatingPointRange lets numbers past its edge and takes no infinity: the checks are our own."""
    numbers = [s for s in TABLE if s.kind in (int, float)]
    assert all(s.low > -math.inf and s.range_text for s in numbers)
    for spec in (s for s in numbers if s.live):
        for bad in (
            math.nan,
            -math.inf,
            spec.low - 1,
            *([spec.high + 1] if spec.high < math.inf else []),
        ):
            if spec.kind is int and not math.isfinite(bad):
                continue
            assert not owner.ask(**{spec.name.replace(".", "__"): spec.kind(bad)}).successful, (
                spec.name,
                bad,
            )
    assert owner.applied == []


@pytest.mark.parametrize("kept", [True, False], ids=["", "where rclpy keeps it elsewhere"])
def test_what_the_command_line_gives_is_read_without_the_private_name_too(domain, kept):
    context = Context()
    given = {"beta": 0.25, "num_candidates": 4, "guidance.only": "a,b"}
    options = [part for name, value in given.items() for part in ("-p", f"{name}:={value}")]
    names = ["-r", "__node:=arm", "-r", "__ns:=/left", "-p", "other:nonsense:=1"]
    rclpy.init(args=["--ros-args", *options, *names], context=context, domain_id=domain)
    node = Node("owner", context=context, start_parameter_services=False)
    try:
        if not kept:
            del node._parameter_overrides
        found = overrides(node)
        assert {n: p.value for n, p in found.items() if n in given} == given
        assert set(found) - set(given) <= {"use_sim_time", "start_type_description_service"}
        values = Parameters(node, lambda values: None).values
        assert {name: values[name] for name in given} == given
        assert {name: node.get_parameter(name).value for name in given} == given
        assert node.get_parameter("limits_scale").value == 1.0
        with pytest.raises(UsageError, match="unknown parameters beta"):
            Parameters(node, lambda values: None, [s for s in TABLE if s.name != "beta"])
    finally:
        node.destroy_node()
        context.try_shutdown()
