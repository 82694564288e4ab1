"""Settings of training, importable without torch: the command line shows them at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from qgf_ros.errors import PolicyRefused, UsageError
from qgf_ros.policy.description import PolicyDescription, parse_aggregation
from training.learn.critics import KINDS, OWN, Kind

# Episodes of a purpose share no seed with those of another, nor with demonstrations.
SELECT_SEEDS = 500_000_000
REPORT_SEEDS = 600_000_000


@dataclass(frozen=True)
class FitConfig:
    """How to train. Defaults suit small state-based tasks on a CPU."""

    hidden: tuple[int, ...] = (256, 256, 256)
    """Widths of the hidden layers, of flow, critic and value alike."""
    critic: Kind = "iql"
    """iql: better than the data, stitched together. sarsa: the data's own value. monte_carlo: the
    same from whole episodes that ended, without bootstrapping, for little data."""
    bounded: bool = False
    """Q in (0, 1), a sigmoid trained with binary cross-entropy; for time_to_success and reach_goal."""
    members: int = 2
    """Critics in the ensemble."""
    aggregation: str = "min"
    """How the members' Q become the one that guides: min, mean, or mean-<k>std (mean-1std)."""
    steps: int = 20_000
    """Gradient updates."""
    batch: int = 256
    """Chunks per update."""
    flow_draws: int = 1
    """Draws of noise and flow time for each of them. With cameras an image costs more than a draw: 64
    chunks of 4 draws learn about as well as 256 of one."""
    encoder_gradient: Literal["both", "flow"] = "both"
    """Of cameras: whose loss teaches their encoders. flow: without the critic's an encoder forgets what
    the demonstrator ignores, and guidance with it."""
    discount: float = 0.99
    """Per control period."""
    expectile: float = 0.9
    """Of iql's value: 0.5 is the data's average, towards 1 the best of the data. sarsa's is always
    0.5 and monte_carlo has none: there, another one is refused."""
    learning_rate: float = 1e-3
    """Largest; reached after `warmup` updates."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """cosine: the learning rate falls to nothing at the last update."""
    warmup: int = 500
    """Updates over which the learning rate rises; at most a tenth of all."""
    clip: float = 10.0
    """Largest norm of each net's gradient; inf: none."""
    average: float = 0.999
    """Decay of the moving average of the flow's weights, which is what samples; 0: none."""
    choose_critic: bool = True
    """Keep the critic with the smallest error on the select split, out of the second half of
    training; the last one is rarely the best."""
    checkpoint_every: int = 1000
    """Updates between two checkpoints, from which --resume goes on."""
    denoise_steps: int = 10
    """T, Euler steps from noise to action."""
    return_scale: float = 0.0
    """Rewards are divided by it; 0: the spread of returns in the data, 1: the published form."""
    flow_future_goals: float = 1.0
    """Objective reach_goal: share of the flow's goals that are a state reached later in the episode
    (any, alike); the others are as recorded."""
    critic_future_goals: float = 0.5
    """The same for the critic; sooner ones are likelier, by the discount."""
    critic_random_goals: float = 0.3
    """Objective reach_goal: share of the critic's goals that are a state of another episode."""
    relative_actions: bool = True
    """Positions are learnt relative to the measured one, so that a pose which no demonstration had
    is no new action. What is commanded stays absolute."""
    observation_noise: float = 0.0
    """Standard deviation, in z-scores, of noise on what the flow sees while it learns. With few
    demonstrations 0.2 keeps it from learning them by heart; the critic sees what was recorded."""
    grid_time: bool = False
    """Draw flow time from the grid of T steps, as published, instead of continuously."""
    seed: int = 0
    threads: int = 1
    """Of PyTorch. More than one is often slower on a busy machine."""
    workers: int = 2
    """Processes that read data."""

    def __post_init__(self) -> None:
        try:
            parse_aggregation(self.aggregation)
        except ValueError as error:
            raise UsageError(f"aggregation: {error}") from None
        critic_goals = self.critic_future_goals + self.critic_random_goals
        for name, ok, allowed in (
            (
                "hidden",
                self.hidden and min(self.hidden) >= 1,
                "one or more widths, each at least 1",
            ),
            ("members", 1 <= self.members <= 10, "1 to 10"),
            ("steps", self.steps >= 1, "at least 1"),
            ("batch", self.batch >= 1, "at least 1"),
            ("encoder_gradient", self.encoder_gradient in ("both", "flow"), "both or flow"),
            ("flow_draws", 1 <= self.flow_draws <= 64, "1 to 64"),
            ("discount", 0 < self.discount <= 1, "above 0, at most 1"),
            ("critic", self.critic in KINDS, ", ".join(KINDS)),
            ("expectile", 0 < self.expectile < 1, "between 0 and 1"),
            # The default is not told from no setting, and does no harm.
            *(
                (
                    name,
                    self.critic in kinds or getattr(self, name) == getattr(FitConfig, name),
                    f"one with critic {' or '.join(kinds)} only: leave it out",
                )
                for name, kinds in OWN.items()
            ),
            ("learning_rate", 0 < self.learning_rate < 1, "between 0 and 1"),
            ("schedule", self.schedule in ("cosine", "constant"), "cosine or constant"),
            ("warmup", self.warmup >= 0, "at least 0"),
            ("clip", self.clip > 0, "above 0, or inf"),
            ("average", 0 <= self.average < 1, "0 to below 1"),
            ("checkpoint_every", self.checkpoint_every >= 1, "at least 1"),
            ("denoise_steps", 1 <= self.denoise_steps <= 1000, "1 to 1000"),
            ("return_scale", 0 <= self.return_scale < float("inf"), "0 or a positive number"),
            (
                "return_scale",
                not self.bounded or self.return_scale in (0, 1),
                "0 or 1 with bounded",
            ),
            ("flow_future_goals", 0 <= self.flow_future_goals <= 1, "0 to 1"),
            ("critic_future_goals", 0 <= self.critic_future_goals <= 1, "0 to 1"),
            ("critic_random_goals", 0 <= self.critic_random_goals, "at least 0"),
            ("critic_random_goals", critic_goals <= 1 + 1e-9, "up to 1 - critic_future_goals"),
            (
                "observation_noise",
                0 <= self.observation_noise < float("inf"),
                "0 or a positive number",
            ),
            ("seed", self.seed >= 0, "at least 0"),
            ("threads", self.threads >= 1, "at least 1"),
            ("workers", self.workers >= 1, "at least 1"),
        ):
            if not ok:
                raise UsageError(f"{name} is {getattr(self, name)}; allowed: {allowed}")


def provenance_of(description: PolicyDescription) -> dict[str, Any]:
    """What a policy says of how it was made, with `data`, `split` and `config`, each {} where it
    does not say.

    Raises PolicyRefused where they are something else than `qgf train` writes: anybody can have
    written that file.
    """
    made: Any = description.provenance
    where = "provenance"
    if isinstance(made, dict):
        made = {**made, **{k: made.get(k) or {} for k in ("data", "split", "config")}}
        where = next(
            (
                f"provenance.{k}"
                for k in ("data", "split", "config")
                if not isinstance(made[k], dict)
            ),
            "",
        )
        seed = made["config"].get("seed", None if made["split"] else 0) if not where else 0
        if type(seed) is not int:
            where = "provenance.config.seed"
    if where:
        raise PolicyRefused(
            f"{where} in policy.yaml is not what `qgf train` writes there; export the policy again, or "
            "write `provenance: {}`"
        )
    return made
