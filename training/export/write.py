"""policy folder -> sampler.onnx, and how far the samplers of this policy are from the reference."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path

import onnxruntime
import torch

from qgf_ros.errors import CriterionNotMet, DeviceUnavailable, PolicyRefused
from qgf_ros.guidance.backends.native import NativeSampler
from qgf_ros.guidance.backends.onnx import OnnxSampler
from qgf_ros.guidance.backends.onnx_graph import check_graph
from qgf_ros.guidance.protocols import Sampler
from qgf_ros.policy.description import Beta, Export
from qgf_ros.policy.folder import Policy, describe_anew, load_policy
from qgf_ros.policy.manifest import SAMPLER
from training.export.explicit import GuidedSampler, export_onnx
from training.export.half import half_error
from training.export.parity import TOLERANCE, networks, parity


def export(folder: Path) -> Export:
    """Writes sampler.onnx and the result of the checks into the policy folder.

    The native sampler is held to the same parity where it can be had, and the error of its
    half-precision weights is measured.

    Raises:
        PolicyRefused: the folder is not a sound policy.
        CriterionNotMet: parity failed; the folder is left as it was.
        UsageError: another policy, or an edited one, came into its place meanwhile, and stays.
    """
    policy = load_policy(folder)
    d = policy.description
    onnx = _onnx(policy)
    samplers: list[Sampler] = [OnnxSampler(replace(policy, onnx=onnx), "cpu")]
    try:
        samplers.append(NativeSampler(policy))
    except (DeviceUnavailable, PolicyRefused):
        pass  # ONNX Runtime takes over on the robot too, and the node says why
    found = parity(policy, *samplers)
    for sampler, one in zip(samplers, found):
        if not one.largest_error <= 1:
            raise CriterionNotMet(
                f"{folder}: the {sampler.backend} sampler differs by {one.largest_error:.2f} times the "
                f"tolerance of {TOLERANCE:g} * (1 + w); nothing was written. A larger beta floor or "
                "another network may help"
            )
    native = found[1].largest_error if len(found) > 1 else None
    result = Export(
        largest_error=found[0].largest_error,
        samples=found[0].samples,
        ties_left_out=found[0].ties_left_out,
        onnxruntime=onnxruntime.__version__,
        native_error=native,
        half_error=None if native is None else half_error(policy),
    )
    describe_anew(policy, replace(d, export=result), onnx)
    return result


def summary(export: Export) -> str:
    """The result in a sentence."""
    text = (
        f"largest error {export.largest_error:.3f} of the tolerance over {export.samples} samples"
    )
    if export.native_error is None or export.half_error is None:
        return f"{text}; the native sampler could not be had: neither it nor half precision was checked"
    return (
        f"{text}, {export.native_error:.3f} of the native sampler; "
        f"half-precision weights change an action by {export.half_error:.2g}"
    )


def guidance(beta: Beta) -> str:
    """The scale of beta in a line: what to begin with, what to try, and how far down it goes."""
    if math.isinf(beta.default):
        return (
            f"beta: inf, no guidance, is the default: the critic learnt nothing; floor {beta.min:g}"
        )
    tried = ", ".join(f"{b:g}" for b in sorted(beta.suggested, reverse=True))
    return f"beta: begin with inf, then {beta.default:g} (default); suggested {tried}; floor {beta.min:g}"


def _onnx(policy: Policy) -> bytes:
    velocity, critic = networks(policy)
    d = policy.description
    times = torch.from_numpy(policy.velocity["time_embedding"])
    module = GuidedSampler(velocity, critic, d.flow.denoise_steps, d.returns.aggregation, times)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / SAMPLER
        export_onnx(module, path)
        onnx = path.read_bytes()
    check_graph(onnx, SAMPLER)  # what the robot's side would refuse is not written
    return onnx
