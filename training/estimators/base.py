"""What a gradient estimator is given and what it returns, stated once."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """Denoising step k of T for B rows at once, with the observation already bound in.

    `velocity(a, k)`: (B, D) -> (B, D), the flow at t = k / T, for any k in 0..T-1.
    `q(a)`: (B, D) -> (B,), the aggregated Q; row i depends on row i of `a` only.
    Both can be differentiated; estimators switch autograd on for themselves.
    """

    velocity: Callable[[Tensor, int], Tensor]
    q: Callable[[Tensor], Tensor]
    a: Tensor  # (B, D), a_t
    v: Tensor  # (B, D), velocity(a, k), a constant
    k: int
    steps: int  # T
    bound: float = 1.0  # clean actions lie in [-bound, bound]; inf where they have no bounds

    @property
    def time(self) -> float:
        """t = k / T in [0, 1); 0 = noise, 1 = clean action."""
        return self.k / self.steps

    def denoised(self, a: Tensor, v: Tensor) -> Tensor:
        """clip(a_t + (1 - t) v): one Euler step from a_t (B, D) to the clean action (B, D)."""
        return (a + (1 - self.time) * v).clamp(-self.bound, self.bound)


# gradient(step) -> (B, D): the direction in which the sampler pushes a_t, before the weight w.
Estimator = Callable[[Step], Tensor]


def gradient_at(f: Callable[[Tensor], Tensor], a: Tensor) -> Tensor:
    """d f / d a at a: (B, D) -> (B, D), for f: (B, D) -> (B,) that acts on each row by itself."""
    with torch.enable_grad():
        a = a.detach().requires_grad_()
        return torch.autograd.grad(f(a).sum(), a)[0]
