"""QGF with its Jacobian: the true gradient of Q(a_hat) with respect to a_t.

    a_hat(a_t) = clip(a_t + (1 - t) v(s, a_t, t), -1, 1)
    g          = J^T grad Q(s, a_hat),   J = d a_hat / d a_t

The chain rule taken seriously: through the flow network and through the clip, which zeroes what
saturates. Worse than plain QGF in the paper, and a pass back through the flow dearer.
"""

from torch import Tensor

from training.estimators.base import Step, gradient_at


def gradient(step: Step) -> Tensor:
    """(B, D): d Q(a_hat(a_t)) / d a_t, units of Q per normalised action."""

    def q_of_noisy(a: Tensor) -> Tensor:
        return step.q(step.denoised(a, step.velocity(a, step.k)))

    return gradient_at(q_of_noisy, step.a)
