"""Flow matching: behaviour cloning of the reference policy."""

from collections.abc import Callable

from torch import Tensor


def flow_loss(
    velocity: Callable[[Tensor, Tensor, Tensor], Tensor],
    obs: Tensor,
    action: Tensor,
    noise: Tensor,
    time: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """mean of (v(s, a_t, t) - (a_1 - a_0))^2 with a_t = (1 - t) a_0 + t a_1, over batch and D.

    obs: (B, O); action: (B, D) in [-1, 1], a_1; noise: (B, D) ~ N(0, I), a_0; time: (B,) in
    [0, 1], 0 = noise. -> (loss, metrics).
    """
    t = time[:, None]
    predicted = velocity(obs, (1 - t) * noise + t * action, time)
    loss = (predicted - (action - noise)).square().mean()
    return loss, {"flow_loss": loss.detach()}
