"""Which sampler a robot gets: the table of backends, and the choice among them."""

from __future__ import annotations

from qgf_ros.errors import DeviceUnavailable, PolicyRefused, UsageError
from qgf_ros.guidance.backends.table import Native, Numpy, Onnx, Torch
from qgf_ros.guidance.protocols import DEVICES, PRECISIONS, Backend, Sampler
from qgf_ros.guidance.reference import check_answers
from qgf_ros.plugins import Kinds
from qgf_ros.policy.folder import Policy

NATIVE, ONNX, TORCH, NUMPY = Native(), Onnx(), Torch(), Numpy()
OURS: dict[str, Backend] = {b.name: b for b in (NATIVE, ONNX, TORCH, NUMPY)}
# Other packages add a name, and a class like those of `table`.
BACKENDS = Kinds(
    "backend",
    "qgf.backends",
    {n: f"{type(b).__module__}:{type(b).__name__}" for n, b in OURS.items()},
)


def backend_names() -> tuple[str, ...]:
    """What `backend` may be: auto, ours, and those that other packages add under a name of their own."""
    return ("auto", *(name for name in BACKENDS.names if name != "auto"))


def make_sampler(
    policy: Policy,
    backend: str = "auto",
    device: str = "auto",
    threads: int = 1,
    precision: str = "float32",
) -> Sampler:
    """Builds and warms up the sampler.

    `auto` is the first that takes the policy and can be had: ONNX Runtime on CUDA, where it is a
    CUDA build; the native sampler; ONNX Runtime on the CPU; and numpy, for policies whose components
    no other backend knows. Why it was none of those before is in `note`.

    Args:
        threads: of ONNX Runtime and PyTorch; the native sampler has one.
        precision: of the weights; float16 is the native sampler's alone.

    Raises:
        UsageError: an unknown name, or names that do not go together.
        DeviceUnavailable: what was asked for is not there: CUDA, or a backend's library.
        PolicyRefused: the policy lacks what the backend needs, is not to be run in float16, or the
            sampler does not answer as the policy's weights do, see `reference`.
    """
    sampler = unchecked_sampler(policy, backend, device, threads, precision)
    check_answers(policy, sampler, half=precision == "float16")
    return sampler


def unchecked_sampler(
    policy: Policy, backend: str, device: str, threads: int, precision: str
) -> Sampler:
    """As `make_sampler`, without the comparison with the policy's weights."""
    failed: list[DeviceUnavailable | PolicyRefused] = []
    reasons: list[str] = []
    for candidate, where in candidates(policy, backend, device, precision):
        why = candidate.supports(policy)
        if why and backend != "auto":
            raise PolicyRefused(f"{policy.folder}: {why}; use backend auto")
        if why:
            reasons.append(why)
            continue
        try:
            sampler = candidate.make(policy, where, threads, precision)
        except (DeviceUnavailable, PolicyRefused) as error:
            failed.append(error)
            cuda = where == "cuda" and device == "auto"
            reasons.append(
                f"the installed ONNX Runtime is a CUDA build, but: {error}" if cuda else str(error)
            )
            continue
        if reasons:
            instead = () if candidate is NATIVE else (f"{candidate.title} takes over",)
            sampler.note = "; ".join((*reasons, *instead))
        return sampler
    raise type(failed[-1])("; and ".join(map(str, failed)))


def candidates(
    policy: Policy, backend: str, device: str, precision: str
) -> list[tuple[Backend, str]]:
    """The backends that are to be tried for these names, in this order, each with its device.

    Raises UsageError on an unknown name, or names that do not go together.
    """
    given = {"backend": backend, "device": device, "precision": precision}
    for (name, value), allowed in zip(given.items(), (backend_names(), DEVICES, PRECISIONS)):
        if value not in allowed:
            raise UsageError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
    if backend != "auto":
        found = OURS[backend] if backend in OURS else _load(backend)
        if why := found.refuses(device, precision):
            raise UsageError(why)
        return [(found, device)]
    order: list[tuple[Backend, str]] = [(ONNX, "cuda"), (NATIVE, "cpu"), (ONNX, "cpu")]
    if all(b.supports(policy) for b, _ in order):  # else too slow to take over in silence
        order.append((NUMPY, "cpu"))
    if device == "auto" and not ONNX.has_cuda():
        del order[0]
    order = [(b, where) for b, where in order if device in ("auto", where)]
    fit = [(b, where) for b, where in order if not b.refuses(where, precision)]
    if not fit:
        b, where = order[0]
        raise UsageError(b.refuses(where, precision))
    return fit


def _load(name: str) -> Backend:
    """A backend of another package, which the robot's owner has installed and asked for by name."""
    try:
        made: Backend = BACKENDS.load(name)()
    except Exception as error:  # of somebody else's code
        raise DeviceUnavailable(
            f"backend {name} cannot be had: {error}; repair the package that adds it, or use another"
        ) from None
    return made
