"""Backpropagation through time: the true gradient of Q at the end of the chain.

    a_1(a_t) = clip(Euler steps k, k + 1, .., T - 1 of the unguided flow from a_t, -1, 1)
    g        = J^T grad Q(s, a_1),   J = d a_1 / d a_t, through every remaining step

The final clip is differentiated too, so what saturates gets no gradient. Q is asked about what
the sampler returns, and the sampler returns clip(a, -1, 1); `qgf_jacobian` has the clip in its J
for the same reason, and at the last step the two are the same. (Going on without the mask is
what J = I is for: see `qgf` and `qgf_chain`.)

In the paper unstable and dear: J is a product of T - k Jacobians, near zero inside a peak's
basin and very large on the ridges between them, and step k costs T - k passes of the flow there
and back, with the memory for all of them.
"""

from torch import Tensor

from training.estimators.base import Step, gradient_at
from training.estimators.qgf_chain import end


def gradient(step: Step) -> Tensor:
    """(B, D): d Q(a_1(a_t)) / d a_t, units of Q per normalised action."""

    def q_of_end(a: Tensor) -> Tensor:
        return step.q(end(step, a, step.velocity(a, step.k)))

    return gradient_at(q_of_end, step.a)
