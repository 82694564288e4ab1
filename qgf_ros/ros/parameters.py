"""The node's parameters: one table, and the checks that keep a bad value out.

A request is checked without side effects, and applied when rclpy has stored all of it: another
callback may still refuse what was good here. rclpy's callbacks before and after a set do not exist
in Humble, so the node's `set_parameters_atomically`, through which its services go in every
version, is led through `Parameters.set`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from qgf_ros.errors import UsageError
from qgf_ros.guidance.protocols import BACKENDS, DEVICES, PRECISIONS


@dataclass(frozen=True)
class Spec:
    """One parameter. `low` and `high` are inclusive; for beta the policy's floor raises `low`."""

    name: str
    default: Any
    description: str
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    live: bool = False
    choices: tuple[str, ...] = ()

    @property
    def range_text(self) -> str:
        if self.choices:
            return ", ".join(self.choices)
        return "" if self.low == -math.inf else f"{self.low:g} to {self.high:g}"


TINY = 5e-324  # beta: anything above zero, until the policy's floor is known

PARAMETERS = (
    Spec("policy", "", "Policy folder, or the name of a shipped policy (planar_arm, ur5e_cube)."),
    Spec("policies", "", "Folder whose policies ~/load_policy loads by name. Unset: the one that `policy` is in."),
    Spec("autostart", True, "Configure and activate at start; otherwise a lifecycle manager does."),
    Spec("enable_on_start", False, "Move without waiting for ~/enable. Only for simulation."),
    Spec("exit_with_parent", False, "End when the process that started this one dies, as with a killed launch."),
    Spec("gate", "inside", "Who publishes on the robot's topics: this node, or qgf_gate (outside) from ~/command.",
         choices=("inside", "outside")),
    Spec("estop_required", False, "FAULT, and no motion at start, without somebody who publishes ~/estop."),
    Spec("estop_timeout", 0.0, "FAULT where ~/estop, a heartbeat, is silent for so long, and no motion before it "
         "is heard; 0: never. Of qgf_gate too.", "s", 0.0, 60.0),
    Spec("state_bound", 1.0, "HOLD where the state is further outside of what was recorded; inf: never.",
         "widths of the recorded range", 0.0, math.inf),
    Spec("hold_if_frozen", False, "HOLD, not a warning alone, where a sensor repeats itself in motion."),
    Spec("real_time_chunking", False, "Sample while the last chunk goes on, its committed actions held fixed."),
    Spec("blend_steps", 0, "Actions over which a new chunk takes over from the last; 0: at once.", "", 0, 64),
    Spec("backend", "auto", "What runs the sampler; auto: native on the CPU, onnx on CUDA.", choices=BACKENDS),
    Spec("device", "auto", "Where: auto takes CUDA if a session really runs on it.", choices=DEVICES),
    Spec("precision", "float32", "Of the sampler's weights; float16: native only, and where `qgf export` found it "
         "close enough.", choices=PRECISIONS),
    Spec("threads", 1, "Threads of onnx and torch; native has one. More than one is slower on a busy machine.",
         "", 1, 64),
    Spec("seed", 0, "Of the sampler's noise, which depends on it and the observation's stamp alone.", "", 0, 2**31),
    Spec("beta", math.nan, "Temperature of the guidance: smaller guides harder, inf is the unguided policy. "
         "Unset: the policy's default; never below the policy's floor.", "return scale", TINY, math.inf, live=True),
    Spec("num_candidates", 1, "Candidates per sample; the one with the largest Q is executed.", "", 1, 64, live=True),
    Spec("guidance.slew", 0.5, "Time in which the guidance weight crosses its whole range, 0 to 1/floor; 0: at once.",
         "s", 0.0, 60.0, live=True),
    Spec("guidance.support", False, "Drop what of the gradient leads further out of the data's range.", live=True),
    Spec("guidance.disagreement", math.inf, "No guidance where the critics' Q have a larger standard deviation.",
         "return scale", 0.0, math.inf, live=True),
    Spec("guidance.skip_first", 0, "Denoising steps from the noise on without guidance.", "", 0, 999, live=True),
    Spec("guidance.last", 0, "Guidance in the last so many denoising steps only; 0: in all.", "", 0, 1000, live=True),
    Spec("guidance.only", "", "Names of the numbers that are guided (arm.a,arm.b); unset: all.", live=True),
    Spec("guidance.ratio_cap", math.inf, "Largest guidance of a denoising step, relative to the flow's velocity.",
         "", 0.0, math.inf, live=True),
    Spec("guidance.keep_best", False, "The unguided sample where the guided one's Q is not larger.", live=True),
    Spec("limits_scale", 1.0, "Tightens the contract's limits of velocity and rate.", "", 0.01, 1.0, live=True),
)  # fmt: skip
Store = Callable[[list[Parameter]], SetParametersResult]
BY_NAME = {spec.name: spec for spec in PARAMETERS}


def readme_row(spec: Spec) -> tuple[str, str, str, str, str]:
    """The parameter's row of the README's table, which a test holds to this."""
    default = str(spec.default).lower() if isinstance(spec.default, bool) else f"{spec.default}"
    span = spec.range_text if spec.low != TINY else "above 0, not below the policy's floor, to inf"
    shown = "the policy's" if default == "nan" else f"`{default}`" if default else "none"
    return f"`{spec.name}`", shown, span, "yes" if spec.live else "", spec.description


def checked(spec: Spec, value: Any, low: float | None = None) -> Any:
    """The value in the parameter's type.

    Integers serve as doubles, and "inf" is understood, since that is how `ros2 param set` sends
    `beta 1` and `beta inf`.

    Raises:
        UsageError: what was given, what is allowed.
    """
    low = spec.low if low is None else low
    wanted = type(spec.default)
    if wanted is float:
        if isinstance(value, str) and value.strip().lower() in (
            "inf",
            ".inf",
            "+inf",
            "+.inf",
            "infinity",
        ):
            value = math.inf
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UsageError(f"{spec.name} must be a number, not {type(value).__name__} {value!r}")
        value = float(value)
        if math.isnan(value):
            raise UsageError(f"{spec.name} is NaN; allowed: {low:g} to {spec.high:g}")
    elif type(value) is not wanted:
        raise UsageError(
            f"{spec.name} must be of type {wanted.__name__}, not {type(value).__name__} {value!r}"
        )
    if wanted in (int, float) and not low <= value <= spec.high:
        hint = (
            " (a temperature: the guidance weight is 1/beta; inf is unguided)"
            if spec.name == "beta"
            else ""
        )
        raise UsageError(f"{spec.name} is {value:g}; allowed: {low:g} to {spec.high:g}{hint}")
    if spec.choices and value not in spec.choices:
        raise UsageError(f"{spec.name} is {value!r}; allowed: {', '.join(spec.choices)}")
    return value


class Parameters:
    """Declares a table on a node, keeps checked values, and tells when a live one changed."""

    def __init__(
        self,
        node: Node,
        on_change: Callable[[str, Any], None],
        table: tuple[Spec, ...] = PARAMETERS,
        foreign: Iterable[str] = (),
        check: Callable[[Mapping[str, Any]], None] = lambda values: None,
    ) -> None:
        """
        Args:
            foreign: names of another node's parameters, passed over in a file that both read.
            check: raises UsageError where the values of all parameters, each of them in its range,
                do not fit each other; then nothing of the request is applied.

        Raises:
            UsageError: a bad or unknown value on the command line or in a parameter file.

        The node has to lead `set_parameters_atomically` through `set`.
        """
        self._node = node
        self._on_change = on_change
        self._check = check
        self._by_name = {spec.name: spec for spec in table}
        self._low: dict[str, float] = {}
        self._defaulted: set[str] = set()  # nobody has set them: they are the policy's
        self.values: dict[str, Any] = {}
        given = overrides(node)
        unknown = set(given) - set(self._by_name) - {"use_sim_time"}
        unknown -= set(foreign)
        unknown = {
            n
            for n in unknown
            if not n.startswith(("qos_overrides.", "start_type_description_service"))
        }
        if unknown:
            raise UsageError(
                f"unknown parameters {', '.join(sorted(unknown))}; known: {', '.join(self._by_name)}"
            )
        for spec in table:
            override = given.get(spec.name)
            if override is not None and override.type_ is not Parameter.Type.NOT_SET:
                value = checked(spec, override.value)
            else:
                value = spec.default
            # The checked value is the one that counts.
            node.declare_parameter(spec.name, value, _descriptor(spec), ignore_override=True)
            self.values[spec.name] = value
            if value != value:  # NaN
                self._defaulted.add(spec.name)
        node.add_on_set_parameters_callback(self._on_set)

    def set(self, parameters: Iterable[Parameter], store: Store) -> SetParametersResult:
        """Brings a request to the table's types, and applies it where `store`, rclpy's own
        `set_parameters_atomically`, took it."""
        typed = [self._typed(p) for p in parameters]
        result = store(typed)
        if result.successful:
            good = {p.name: p.value for p in typed if p.name in self.values}
            self._defaulted -= good.keys()
            self.values |= good
            for name, value in good.items():
                self._on_change(name, value)
        return result

    def fitting(self, name: str, low: float, default: float, fall_back: bool = False) -> float:
        """The value under a policy's lower bound and default: what somebody has set, else the default.

        Raises:
            UsageError: what was set lies below the bound; with `fall_back` it is the default then.
        """
        value = self.values[name]
        if name in self._defaulted or (fall_back and value < low):
            return default
        return checked(self._by_name[name], value, low)

    def set_floor(self, name: str, low: float, default: float, fall_back: bool = False) -> None:
        """A policy brings its own lower bound and default, see `fitting`."""
        value = self.fitting(name, low, default, fall_back)
        ours = name in self._defaulted or value != self.values[name]
        self._low[name] = max(self._by_name[name].low, low)
        self._node.set_parameters_atomically([Parameter(name, Parameter.Type.DOUBLE, value)])
        if ours:  # it was not set by anybody
            self._defaulted.add(name)

    def _typed(self, parameter: Parameter) -> Parameter:
        """Lets 1 and "inf" through to a double; what cannot be converted is refused later."""
        spec = self._by_name.get(parameter.name)
        if spec is None or not spec.live or type(spec.default) is not float:
            return parameter
        try:
            return Parameter(
                parameter.name, Parameter.Type.DOUBLE, checked(spec, parameter.value, -math.inf)
            )
        except UsageError:
            return parameter

    def _on_set(self, parameters: Iterable[Parameter]) -> SetParametersResult:
        wanted = dict(self.values)
        for parameter in parameters:
            spec = self._by_name.get(parameter.name)
            if parameter.name == "use_sim_time":
                reason = (
                    "use_sim_time is read at start: a clock is not swapped under a moving robot"
                )
                return SetParametersResult(successful=False, reason=reason)
            if spec is None:
                continue
            try:
                low = self._low.get(spec.name)
                wanted[spec.name] = checked(spec, parameter.value, low)
            except UsageError as error:
                return SetParametersResult(successful=False, reason=str(error))
        try:
            self._check(wanted)
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
        dynamic_typing=spec.live and type(spec.default) is float,
    )
