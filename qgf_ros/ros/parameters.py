"""Settings as the parameters of a node: declared, set as one transaction, and told when they changed.

What is allowed is said by the table (`control/settings.py`). A request is checked without side effects,
and applied when rclpy has stored all of it: another callback may still refuse what was good here.
rclpy's callbacks before and after a set do not exist in Humble, so the node's
`set_parameters_atomically`, through which its services go in every version, is led through
`Parameters.set`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from qgf_ros.control.settings import TABLE, read
from qgf_ros.control.spec import Spec
from qgf_ros.errors import UsageError

Store = Callable[[list[Parameter]], SetParametersResult]
Values = Mapping[str, Any]


class Parameters:
    """Declares a table on a node and keeps what was asked for, each value checked.

    values: by name, None where nobody has set what has no default, whatever a policy makes of it.
    """

    def __init__(
        self,
        node: Node,
        apply: Callable[[Values], None],
        table: Iterable[Spec] = TABLE,
        foreign: Iterable[str] = (),
        check: Callable[[Values], Any] = lambda values: None,
    ) -> None:
        """
        Args:
            apply: told the values of all parameters after some of them have been set.
            foreign: names of another node's parameters, passed over in a file that both read.
            check: raises UsageError where the values of all parameters, each of them in its range,
                do not fit each other; then nothing of the request is applied.

        Raises:
            UsageError: a bad or unknown value on the command line or in a parameter file.

        The node has to lead `set_parameters_atomically` through `set`.
        """
        self._node = node
        self._apply = apply
        self._check = check
        self._by_name = {spec.name: spec for spec in table}
        given = {name: parameter.value for name, parameter in overrides(node).items()}
        self.values: Values = read(given, self._by_name.values(), foreign)
        for spec in self._by_name.values():
            # The checked value is the one that counts.
            value = spec.shown(self.values[spec.name])
            node.declare_parameter(spec.name, value, _descriptor(spec), ignore_override=True)
        node.add_on_set_parameters_callback(self._on_set)

    def set(self, parameters: Iterable[Parameter], store: Store) -> SetParametersResult:
        """Brings a request to the table's types, and applies it where `store`, rclpy's own
        `set_parameters_atomically`, took it."""
        typed = [self._typed(p) for p in parameters]
        result = store(typed)
        if result.successful and (own := [p for p in typed if p.name in self._by_name]):
            self.values = {**self.values, **self._checked(own)}
            self._apply(self.values)
        return result

    def settle(self, name: str, value: float, low: float) -> None:
        """Lets `ros2 param get` tell what a policy has made of a parameter, and a refusal what the
        policy's floor is. Where the value is not what was asked for, nobody has set it from now on:
        the next policy has its own way with it."""
        self._by_name[name] = replace(self._by_name[name], low=low)
        asked = self.values[name]
        self._node.set_parameters_atomically([Parameter(name, Parameter.Type.DOUBLE, value)])
        self.values = {**self.values, name: asked if asked == value else None}

    def _typed(self, parameter: Parameter) -> Parameter:
        """Lets 1 and "inf" through to a double; what is not allowed is refused later, with a reason."""
        spec = self._by_name.get(parameter.name)
        if spec is None or not spec.live or spec.kind is not float:
            return parameter
        try:
            return Parameter(spec.name, Parameter.Type.DOUBLE, spec.checked(parameter.value))
        except UsageError:
            return parameter

    def _checked(self, parameters: Iterable[Parameter]) -> dict[str, Any]:
        return {p.name: self._by_name[p.name].checked(p.value) for p in parameters}

    def _on_set(self, parameters: Iterable[Parameter]) -> SetParametersResult:
        own = [p for p in parameters if p.name in self._by_name]
        if any(p.name == "use_sim_time" for p in parameters):
            reason = "use_sim_time is read at start: a clock is not swapped under a moving robot"
            return SetParametersResult(successful=False, reason=reason)
        try:
            self._check({**self.values, **self._checked(own)})
        except UsageError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)


def overrides(node: Node) -> dict[str, Parameter]:
    """What the command line and parameter files give this node, declared or not, by name.

    rclpy keeps it under a private name. Where that is gone, another node of the same name, alone for
    a moment, is asked, which declares all that it is given.
    """
    if isinstance(kept := getattr(node, "_parameter_overrides", None), dict):
        return kept
    other = Node(
        node.get_name(),
        namespace=node.get_namespace(),
        context=node.context,
        enable_rosout=False,
        start_parameter_services=False,
        automatically_declare_parameters_from_overrides=True,
    )
    try:
        return dict(other.get_parameters_by_prefix(""))
    finally:
        other.destroy_node()


def _descriptor(spec: Spec) -> ParameterDescriptor:
    """dynamic_typing for live doubles, so that an int or "inf" reaches our check and its reason."""
    unit = f" [{spec.unit}]" if spec.unit else ""
    return ParameterDescriptor(
        name=spec.name,
        description=f"{spec.description}{unit}",
        additional_constraints=spec.range_text,
        read_only=not spec.live,
        dynamic_typing=spec.live and spec.kind is float,
    )
