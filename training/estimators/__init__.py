"""Estimators of the gradient that guides the flow: one file each, one function `gradient` each.

An estimator maps a `Step` (where the sampler stands: a_t, v, k, T, the flow and Q) to a (B, D)
gradient; `base.py` states the contract. Section and names follow arXiv 2606.11087.
"""

from training.estimators import bptt, ood, qgf, qgf_chain, qgf_jacobian
from training.estimators.base import Estimator, Step

__all__ = ["ESTIMATORS", "Estimator", "Step", "get"]

ESTIMATORS: dict[str, Estimator] = {
    "qgf": qgf.gradient,
    "qgf_jacobian": qgf_jacobian.gradient,
    "qgf_chain": qgf_chain.gradient,
    "bptt": bptt.gradient,
    "ood": ood.gradient,
}


def get(name: str) -> Estimator:
    """The estimator of that name; raises ValueError where there is none."""
    if name not in ESTIMATORS:
        raise ValueError(f"unknown estimator {name!r}; known: {', '.join(ESTIMATORS)}")
    return ESTIMATORS[name]
