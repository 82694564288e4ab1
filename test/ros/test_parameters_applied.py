"""The parameter table on a node, without the wire: checked without side effects, applied when
stored, on every ROS version.

Pinned: a value that was applied although another callback refused the request; integers that only
became doubles where rclpy calls back before a set, which Humble does not.
"""

import math

import pytest
import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter

from qgf_ros.errors import UsageError
from qgf_ros.ros.parameters import PARAMETERS, Parameters, overrides

CALLBACKS = ("add_pre_set_parameters_callback", "add_post_set_parameters_callback")


class Owner(Node):
    def __init__(self, context):
        super().__init__("owner", context=context, start_parameter_services=False)
        self.changes = []
        self.parameters = Parameters(self, lambda name, value: self.changes.append((name, value)))

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
    assert owner.changes == [("beta", meant)]


@pytest.mark.parametrize(
    "bad",
    [{"num_candidates": 0}, {"seed": 5}, {"beta": -1}, {"guidance__slew": math.nan}],
    ids=repr,
)
def test_fault_031_a_bad_one_applies_none(owner, bad):
    result = owner.ask(**{"limits_scale": 0.5, "beta": 0.3} | bad)
    assert not result.successful and result.reason
    assert owner.changes == []
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
    assert owner.changes == [] and math.isnan(owner.parameters.values["beta"])


def test_fault_027_the_policy_raises_the_floor(owner):
    owner.parameters.set_floor("beta", 0.014, 0.22)
    assert owner.parameters.values["beta"] == owner.get_parameter("beta").value == 0.22
    assert not owner.ask(beta=0.013).successful
    assert owner.ask(beta=0.014).successful
    assert owner.changes == [("beta", 0.22), ("beta", 0.014)]


def test_fault_035_every_number_of_the_table_has_a_range_that_holds(owner):
    """FloatingPointRange lets numbers past its edge and takes no infinity: the checks are our own."""
    numbers = [s for s in PARAMETERS if type(s.default) in (int, float)]
    assert all(s.low > -math.inf and s.range_text for s in numbers)
    for spec in (s for s in numbers if s.live):
        kind = type(spec.default)
        for bad in (
            math.nan,
            -math.inf,
            spec.low - 1,
            *([spec.high + 1] if spec.high < math.inf else []),
        ):
            if kind is int and not math.isfinite(bad):
                continue
            assert not owner.ask(**{spec.name.replace(".", "__"): kind(bad)}).successful, (
                spec.name,
                bad,
            )
    assert owner.changes == []


def test_the_table_is_short_enough_to_read():
    assert len(PARAMETERS) <= 40
    assert all(s.description.endswith(".") for s in PARAMETERS)


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
        values = Parameters(node, lambda name, value: None).values
        assert {name: values[name] for name in given} == given
        assert {name: node.get_parameter(name).value for name in given} == given
        assert node.get_parameter("limits_scale").value == 1.0
        with pytest.raises(UsageError, match="unknown parameters beta"):
            Parameters(node, lambda name, value: None, [s for s in PARAMETERS if s.name != "beta"])
    finally:
        node.destroy_node()
        context.try_shutdown()
