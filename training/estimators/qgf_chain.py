"""QGF with the whole chain instead of one step: the gradient of Q where the flow would end.

    a_1 = clip(Euler steps k, k + 1, .., T - 1 of the unguided flow from a_t, -1, 1)
    g   = grad Q(s, a_1)                           J = d a_1 / d a_t replaced by I

The point in question is the action this noise would really become, not the posterior mean that
one long step gives; for that it costs T - k - 1 further passes of the flow at step k. The end is
clipped as a sample is, and is a constant for the gradient, so the clip masks nothing. At the
last step it is `qgf`. Worse than it in the paper: early in the chain a small change of a_t moves
the end from one peak of the data to another, and g with it.
"""

import torch
from torch import Tensor

from training.estimators.base import Step, gradient_at


def end(step: Step, a: Tensor, v: Tensor) -> Tensor:
    """The clipped end (B, D) of the unguided chain from a_t = a (B, D), where the flow is v (B, D).

    Differentiable where autograd is on: `bptt` goes back through it.
    """
    a = a + v / step.steps
    for k in range(step.k + 1, step.steps):
        a = a + step.velocity(a, k) / step.steps
    return a.clamp(-step.bound, step.bound)


def gradient(step: Step) -> Tensor:
    """(B, D): grad Q at the end of the chain from a_t, units of Q per normalised action."""
    with torch.no_grad():
        a_1 = end(step, step.a, step.v)
    return gradient_at(step.q, a_1)
