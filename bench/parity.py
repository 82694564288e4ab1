"""Where a policy's error at export comes from: the same samples in every arithmetic on the way.

    python bench/parity.py POLICY

The cases of `qgf export` (training/export/parity.py), each answered by: the written-out reverse pass in
float64 (is the algebra that of autograd?), the reference in float32 (what float32 costs at all), the
reverse pass in float32, its ONNX graph without and with ONNX Runtime's fusions, and the native
sampler. Errors in units of the tolerance, 1e-5 (1 + w), for each weight; then for ONNX's worst sample
the errors of all others, and how far one last digit of its noise moves the reference itself.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import torch

from qgf_ros.console import say, table
from qgf_ros.errors import exit_codes
from qgf_ros.guidance.backends.explicit import INPUTS, GuidedSampler
from qgf_ros.guidance.backends.native import NativeSampler
from qgf_ros.guidance.backends.onnx import OnnxSampler
from qgf_ros.guidance.block import SamplerInputs, inputs
from qgf_ros.policy.folder import Policy, load_policy
from training.export import parity

STAGES = (
    "reverse pass, float64",
    "reference, float32",
    "reverse pass, float32",
    "ONNX, not fused",
    "ONNX",
    "native",
)
CALM = 0.03  # of the tolerance


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("policy", type=Path)
    with exit_codes():
        measure(load_policy(parser.parse_args().policy))
    return 0


def measure(policy: Policy) -> None:
    torch.set_num_threads(1)
    reference, onnx = parity.Reference(policy), OnnxSampler(policy, "cpu")
    samplers = {
        "reverse pass, float64": explicit(policy, torch.float64),
        "reverse pass, float32": explicit(policy, torch.float32),
        "ONNX, not fused": unfused(policy),
        "ONNX": onnx,
        "native": NativeSampler(policy),
    }
    errors: dict[str, list[np.ndarray]] = {name: [] for name in STAGES}
    moved_parts: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    for case in parity.cases(policy, onnx, np.random.default_rng([20265, 0])):
        truth, tied = reference(case, torch.float64)
        found = {"reference, float32": reference(case, torch.float32)[0]}
        for name, sampler in samplers.items():
            given = case.obs, case.noise, case.weight, case.guards, case.committed
            found[name] = np.asarray(sampler(*given).action)
        for name, action in found.items():
            errors[name].append(parity.row_errors(action, truth, case.weight)[~tied])
        moved_parts.append(reference.apart(case, truth)[~tied])
        weights.append(np.full(int((~tied).sum()), case.weight))
    each = {name: np.concatenate(parts) for name, parts in errors.items()}
    moved, weight = np.concatenate(moved_parts), np.concatenate(weights)
    kept = (each["ONNX"] <= 1) | (moved <= parity.UNDECIDED)
    worst = int(np.argmax(np.where(kept, each["ONNX"], -1)))
    asked = sorted({*weight.tolist()})
    rows = [
        (
            name,
            f"{np.median(e[kept]):.2g}",
            *(f"{e[kept & (weight == w)].max(initial=0):.2g}" for w in asked),
            f"{e[worst]:.2g}",
        )
        for name, e in each.items()
    ]
    columns = ("", "median", *(f"largest, w = {w:.3g}" for w in asked), "ONNX's worst")
    table(f"{int(kept.sum())} of {len(kept)} samples, errors over 1e-5 (1 + w)", columns, rows)
    say(
        f"ONNX's worst sample, w = {weight[worst]:.3g}: a last digit of its noise moves the reference "
        f"in float32 by {moved[worst]:.2g}"
    )
    calm = kept & (moved <= CALM)
    say(
        f"where that is at most {CALM:g} ({int(calm.sum())} samples), ONNX's largest error is "
        f"{each['ONNX'][calm].max(initial=0):.2g}"
    )
    log = np.log(np.maximum(np.stack([each["ONNX"], moved])[:, kept], 1e-6))
    say(f"correlation of the logarithms of error and movement: {np.corrcoef(log)[0, 1]:.2f}")


def explicit(policy: Policy, dtype: torch.dtype) -> Any:
    """The written-out sampler, asked as a sampler is."""
    d = policy.description
    nets = ({k: torch.from_numpy(v).to(dtype) for k, v in t.items() if k != "time_embedding"}
            for t in (policy.velocity, policy.critic))  # fmt: skip
    times = torch.from_numpy(policy.velocity["time_embedding"]).to(dtype)
    bounded = d.critic.output == "sigmoid"
    module = GuidedSampler(*nets, times, d.returns.aggregation, bounded)

    def answer(obs: np.ndarray, noise: np.ndarray, *rest: Any) -> Any:
        block = inputs(policy, len(noise), obs_rows=len(noise))
        views = block.views(np.zeros(block.nbytes, np.uint8))
        SamplerInputs(policy, views).write(obs, noise, *rest)
        given = [torch.from_numpy(views[name]) for name in INPUTS]
        given = [g.to(dtype) if g.is_floating_point() else g for g in given]
        with torch.no_grad():
            return SimpleNamespace(action=module(*given)[0].numpy())

    return answer


def unfused(policy: Policy) -> OnnxSampler:
    """With ONNX Runtime's own operations one by one."""
    assert policy.onnx is not None
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    sampler = OnnxSampler(policy, "cpu")
    sampler._session = onnxruntime.InferenceSession(policy.onnx, options)
    sampler._calls.clear()
    return sampler


if __name__ == "__main__":
    sys.exit(main())
