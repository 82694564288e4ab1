"""QFQL: the gradient of Q at the noisy action itself.

    g = grad Q(s, a_t)

Out of distribution: the critic has only seen clean actions and is asked about noise. Of all
estimators it reaches the highest Q and the lowest success: it exploits the critic's errors.
Here to be compared with, not to be used.
"""

from torch import Tensor

from training.estimators.base import Step, gradient_at


def gradient(step: Step) -> Tensor:
    """(B, D): grad Q at a_t, units of Q per normalised action."""
    return gradient_at(step.q, step.a)
