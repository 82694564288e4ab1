"""Flow matching: behaviour cloning of the reference policy."""

from collections.abc import Callable

from torch import Tensor

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]  # (obs, a_t, time) -> (B, D)


def flow_error(
    velocity: Velocity, obs: Tensor, action: Tensor, noise: Tensor, time: Tensor
) -> Tensor:
    """(B,): mean over D of (v(s, a_t, t) - (a_1 - a_0))^2 with a_t = (1 - t) a_0 + t a_1.

    obs: (B, O); action: (B, D) in [-1, 1], a_1; noise: (B, D) ~ N(0, I), a_0; time: (B,) in
    [0, 1], 0 = noise.
    """
    t = time[:, None]
    predicted = velocity(obs, (1 - t) * noise + t * action, time)
    return (predicted - (action - noise)).square().mean(dim=1)


def flow_loss(
    velocity: Velocity, obs: Tensor, action: Tensor, noise: Tensor, time: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean of `flow_error` over the batch. -> (loss, metrics)."""
    loss = flow_error(velocity, obs, action, noise, time).mean()
    return loss, {"flow_loss": loss.detach()}
