"""The native CPU sampler (`src/qgf_sampler.h`), by ctypes, which releases Python's lock while it runs."""

from __future__ import annotations

import ctypes
import weakref
from ctypes import POINTER, c_char_p, c_float, c_int32, c_size_t, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import qgf_ros
from qgf_ros.errors import DeviceUnavailable, PolicyRefused, UsageError
from qgf_ros.guidance.guards import guard_inputs
from qgf_ros.guidance.protocols import FIELDS, UNGUARDED, Guards, Sample, warm_up
from qgf_ros.policy.description import Network, parse_aggregation
from qgf_ros.policy.folder import Policy

# Beside this file; but a working directory that holds the source tree hides the install folder,
# which has it, and the package's path leads there.
NAME = "libqgf_sampler.so"
PLACES = [Path(folder, "guidance", "backends", NAME) for folder in qgf_ros.__path__]
LIBRARY = next((place for place in PLACES if place.exists()), PLACES[0])
ABI = 1  # of qgf_sampler.h
MAX_CANDIDATES = 64  # in one call of the library
AGGREGATIONS = ("min", "mean")  # in the order of qgf_aggregation
PRECISIONS = ("float32", "float16")  # in the order of qgf_precision
TIME_FEATURES = 16


class _Shape(ctypes.Structure):
    _fields_ = [
        ("abi", c_int32),
        ("obs", c_int32),
        ("action", c_int32),
        ("steps", c_int32),
        ("velocity_layers", c_int32),
        ("velocity_width", POINTER(c_int32)),
        ("critic_layers", c_int32),
        ("critic_width", POINTER(c_int32)),
        ("members", c_int32),
        ("aggregation", c_int32),
        ("deviations", c_float),
        ("bounded", c_int32),
        ("precision", c_int32),
        ("time_features", c_int32),
        ("isa", c_char_p),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [(name, c_void_p) for name in ("weight", "bias", "scale", "shift")]


class _Request(ctypes.Structure):
    _fields_ = [
        ("obs", c_void_p),
        ("noise", c_void_p),
        ("candidates", c_int32),
        ("weight", c_float),
        ("guide", c_void_p),
        ("low", c_void_p),
        ("high", c_void_p),
        ("disagreement", c_float),
        ("ratio_cap", c_float),
        ("committed", c_void_p),
        ("held", c_int32),
    ]


class _Result(ctypes.Structure):
    _fields_ = [(name, c_void_p) for name in FIELDS]  # the same names in the same order


class NativeSampler:
    """A policy's networks in the library, which has copied and packed the weights."""

    backend = "native"
    device = "cpu"
    note = ""

    def __init__(self, policy: Policy, precision: str = "float32", isa: str = "") -> None:
        """
        Args:
            precision: of the stored weights, of `PRECISIONS`; arithmetic is float32.
            isa: an instruction set of `isas()`; "" is the best that this processor has.

        Raises:
            UsageError: an unknown precision.
            DeviceUnavailable: the library is missing, or of another version.
            PolicyRefused: the library does not take this policy.
        """
        if precision not in PRECISIONS:
            raise UsageError(f"precision {precision!r}; allowed: {', '.join(PRECISIONS)}")
        library = _library()
        self._obs = np.zeros(policy.obs_dim, np.float32)
        self._committed = np.zeros(policy.flat_dim, np.float32)
        self._committed_at = self._committed.ctypes.data
        self._policy = policy
        self._request = _Request(obs=self._obs.ctypes.data)
        self._asked = ctypes.addressof(self._request)
        self._guards: Guards | None = None
        self._calls: dict[tuple[int, tuple[str, ...]], _Call] = {}
        self._sample = library.qgf_sample
        self._handle = _create(library, policy, precision, isa)
        destroy = weakref.finalize(self, library.qgf_destroy, self._handle)
        destroy.atexit = False  # a thread may be in the library still
        self.isa = library.qgf_isa(self._handle).decode()
        self.weight_bytes = int(library.qgf_weight_bytes(self._handle))  # read in a guided sample
        self.details = f"{precision}, {self.isa}"
        warm_up(self, policy)

    def __call__(
        self,
        obs: np.ndarray,
        noise: np.ndarray,
        weight: float,
        guards: Guards = UNGUARDED,
        committed: np.ndarray | None = None,
    ) -> Sample:
        return Sample(*self.draw(obs, noise, weight, guards, committed))

    def draw(
        self,
        obs: np.ndarray,
        noise: np.ndarray,
        weight: float,
        guards: Guards = UNGUARDED,
        committed: np.ndarray | None = None,
        fields: tuple[str, ...] = FIELDS,
    ) -> tuple[np.ndarray, ...]:
        """Those fields of the `Sample` alone; what is not asked for is not computed.

        Raises ValueError on a wrong shape, or a weight that is not finite and at least 0.
        """
        policy, count = self._policy, len(noise)
        if obs.shape != self._obs.shape or noise.shape != (count, policy.flat_dim) or not count:
            raise ValueError(
                f"obs has shape {obs.shape} and noise {noise.shape}; "
                f"needed: ({policy.obs_dim},) and (N, {policy.flat_dim}) with N at least 1"
            )
        if count > MAX_CANDIDATES:
            parts = [
                self.draw(obs, rows, weight, guards, committed, fields)
                for rows in np.split(noise, range(MAX_CANDIDATES, count, MAX_CANDIDATES))
            ]
            return tuple(np.concatenate(part) for part in zip(*parts, strict=True))
        call = self._calls.get((count, fields))
        if call is None:
            call = self._calls[count, fields] = _Call(count, policy.flat_dim, fields)
        if guards is not self._guards:
            self._set(guards)
        self._hold(committed)
        # Into buffers whose addresses are known: asking an array for its own takes longer.
        self._obs[:] = obs
        call.noise[:] = noise
        request = self._request
        request.noise, request.candidates, request.weight = call.address, count, weight
        if self._sample(self._handle, self._asked, call.result):
            raise ValueError(
                f"weight is {weight} with {guards}; w = 1/beta must be finite and at least 0, and so "
                "the guards' limits, which may be infinite"
            )
        return call.answer()

    def _set(self, guards: Guards) -> None:
        """They change seldom, and are many numbers."""
        inputs = guard_inputs(guards, self._policy)
        guide = inputs["guide"].astype(np.uint8)
        low, high = np.ascontiguousarray(inputs["low"]), np.ascontiguousarray(inputs["high"])
        disagreement, ratio_cap = float(guards.disagreement), float(guards.ratio_cap)
        request = self._request
        request.guide = None if guide.all() else guide.ctypes.data
        request.low = low.ctypes.data if guards.support else None
        request.high = high.ctypes.data if guards.support else None
        request.disagreement, request.ratio_cap = disagreement, ratio_cap
        self._guards, self._kept = guards, (guide, low, high)  # the library reads them

    def _hold(self, committed: np.ndarray | None) -> None:
        request = self._request
        if committed is None:
            request.committed, request.held = None, 0
            return
        actions, width = self._policy.horizon, self._policy.action_dim
        held = len(committed)
        if committed.shape != (held, width) or not 0 < held < actions:
            raise ValueError(
                f"committed has shape {committed.shape}; needed: (k, {width}) with k from 1 to {actions - 1}"
            )
        self._committed[: committed.size] = committed.ravel()
        request.committed, request.held = self._committed_at, committed.size


class _Call:
    """Buffers for N candidates and the fields that are asked for, used again by every such call."""

    def __init__(self, count: int, flat: int, fields: tuple[str, ...]) -> None:
        shapes = [(count, flat) if name.startswith("action") else (count,) for name in fields]
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes]).tolist()
        starts = [0, *ends[:-1]]
        self.noise = np.zeros((count, flat), np.float32)
        self.address = self.noise.ctypes.data
        self._parts = [(slice(i, j), shape) for i, j, shape in zip(starts, ends, shapes)]
        self._buffer = np.zeros(ends[-1], np.float32)
        base = self._buffer.ctypes.data
        self._result = _Result(**{name: base + 4 * i for name, i in zip(fields, starts)})
        self.result = ctypes.addressof(self._result)

    def answer(self) -> tuple[np.ndarray, ...]:
        """A copy, which the next call leaves alone; views of one buffer."""
        copy = self._buffer.copy()
        return tuple([copy[part].reshape(shape) for part, shape in self._parts])


def isas() -> tuple[str, ...]:
    """The instruction sets of the library that this processor has, best first.

    Raises DeviceUnavailable where the library is missing, or of another version.
    """
    return tuple(_library().qgf_isas().decode().split(","))


@cache
def _library() -> Any:
    try:
        library = ctypes.CDLL(str(LIBRARY))
        abi = library.qgf_abi()
    except (OSError, AttributeError) as error:
        why = "is not there" if not LIBRARY.exists() else f"cannot be loaded ({error})"
        raise DeviceUnavailable(
            f"the native sampler {LIBRARY.name} {why}; build the package again, with a C++ compiler"
        ) from None
    if abi != ABI:
        raise DeviceUnavailable(
            f"the native sampler {LIBRARY.name} has version {abi} of its interface, {Path(__file__).name} "
            f"{ABI}; build the package again"
        )
    library.qgf_isas.restype = c_char_p
    library.qgf_isa.restype, library.qgf_isa.argtypes = c_char_p, [c_void_p]
    library.qgf_weight_bytes.restype, library.qgf_weight_bytes.argtypes = c_size_t, [c_void_p]
    library.qgf_create.restype = c_void_p
    library.qgf_create.argtypes = [
        POINTER(_Shape),
        POINTER(_Layer),
        POINTER(_Layer),
        c_void_p,
        c_char_p,
        c_size_t,
    ]
    library.qgf_sample.argtypes = [c_void_p, c_void_p, c_void_p]
    library.qgf_destroy.restype, library.qgf_destroy.argtypes = None, [c_void_p]
    return library


def _create(library: Any, policy: Policy, precision: str, isa: str) -> int:
    d = policy.description
    kind, deviations = parse_aggregation(d.returns.aggregation)
    velocity, critic = (
        {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in part.items()}
        for part in (policy.velocity, policy.critic)
    )
    shape = _Shape(
        abi=ABI,
        obs=policy.obs_dim,
        action=policy.flat_dim,
        steps=d.flow.denoise_steps,
        velocity_layers=len(d.flow_network.hidden),
        velocity_width=_widths(d.flow_network),
        critic_layers=len(d.critic.hidden),
        critic_width=_widths(d.critic),
        members=d.critic.members,
        aggregation=AGGREGATIONS.index(kind),
        deviations=deviations,
        bounded=d.critic.output == "sigmoid",
        precision=PRECISIONS.index(precision),
        time_features=TIME_FEATURES,
        isa=isa.encode() or None,
    )
    error = ctypes.create_string_buffer(512)
    times = velocity["time_embedding"].ctypes.data
    handle = library.qgf_create(shape, _layers(velocity), _layers(critic), times, error, len(error))
    if not handle:
        raise PolicyRefused(
            f"{policy.folder}: the native sampler does not take it: {error.value.decode()}"
        )
    return int(handle)


def _widths(network: Network) -> Any:
    return (c_int32 * len(network.hidden))(*network.hidden)


def _layers(tensors: dict[str, np.ndarray]) -> Any:
    """Hidden layers and the output, as they follow one another. The tensors have to outlive it."""
    count = sum(name.startswith("layers.") for name in tensors) // 2
    names = ("layers.{}.weight", "layers.{}.bias", "norms.{}.weight", "norms.{}.bias")
    return (_Layer * count)(
        *(
            _Layer(
                *(
                    tensors[n.format(i)].ctypes.data if n.format(i) in tensors else None
                    for n in names
                )
            )
            for i in range(count)
        )
    )
