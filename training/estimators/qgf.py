"""Q-guided flow: the gradient of Q at the denoised action, handed to a_t as it is.

    a_hat = clip(a_t + (1 - t) v(s, a_t, t), -1, 1)
    g     = grad Q(s, a_hat)                           J = d a_hat / d a_t replaced by I

Q is asked about something that looks like an action, never about noise; and dropping J drops
the flow's curvature from g, and with it most of the variance. The clip is no part of the
gradient: where a_hat saturates, g still points on (differentiating a clamp would zero it there,
which is another algorithm).
"""

from torch import Tensor

from training.estimators.base import Step, gradient_at


def gradient(step: Step) -> Tensor:
    """(B, D): grad Q at a_hat, units of Q per normalised action."""
    a_hat = step.denoised(step.a, step.v)
    return gradient_at(step.q, a_hat)
