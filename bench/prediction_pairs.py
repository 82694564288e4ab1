"""Pairs of a policy and a critic for `prediction.py`: one flow per training seed, and critics that
are good, or spoilt in the ways that data spoils them.

All critics of a seed guide the same flow, read the same normalised numbers and have the same
return scale, so that pairs differ in nothing else. Each gets the scale of beta that training would
have given it, from the full select split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from qgf_ros.policy.description import Network
from qgf_ros.policy.folder import Policy, load_policy, write_policy
from qgf_ros.sim.world import make_world, world_folder
from qgf_ros.spaces.contract import Contract
from training.demo import FIT
from training.export.parity import networks
from training.judge.calibration import guidance_scale
from training.judge.metrics import Nets
from training.learn import checkpoint
from training.learn.batches import some
from training.learn.config import FitConfig
from training.learn.critics import learner_of
from training.learn.critics.base import Learner
from training.learn.fit import fit
from training.learn.loop import train
from training.learn.models import Critic, VelocityField
from training.learn.objectives import objective_of
from training.learn.prepare import SELECTED
from training.pipeline.chunks import ChunkTable
from training.pipeline.episodes import Episode, EpisodeArrays, data_hash, return_scale
from training.pipeline.readers.ogbench import play_contract, play_episodes
from training.pipeline.record import record
from training.pipeline.split import split
from training.pipeline.store import prepare

DEMONSTRATIONS = 800  # per training seed of the arm, in bags of their own
CUBE = "cube-single-256x256x256-30000"  # as bench/ogbench.py names what it trains

Spoil = Callable[[Sequence[Episode], np.random.Generator], list[Episode]]


@dataclass(frozen=True)
class Kind:
    """A way to come by a critic. trained False: as it was initialised. published: the flow's own."""

    spoil: Spoil = lambda episodes, rng: list(episodes)
    critic: str = "iql"
    trained: bool = True
    published: bool = False


def few(count: int) -> Spoil:
    """`count` of the episodes."""
    return lambda episodes, rng: [episodes[i] for i in rng.permutation(len(episodes))[:count]]


def succeeded(episodes: Sequence[Episode], rng: np.random.Generator) -> list[Episode]:
    """Those that succeeded."""
    return [e for e in episodes if e.success]


def shuffled(episodes: Sequence[Episode], rng: np.random.Generator) -> list[Episode]:
    """Each ends as another one did."""

    def ending(e: Episode, other: Episode) -> Episode:
        reward = np.concatenate([e.reward[:-1], other.reward[-1:]])
        return replace(e, reward=reward, terminal=other.terminal, success=other.success)

    order = rng.permutation(len(episodes))
    return [ending(e, episodes[i]) for e, i in zip(episodes, order)]


def negated(episodes: Sequence[Episode], rng: np.random.Generator) -> list[Episode]:
    """A cost that was recorded as a reward."""
    return [replace(e, reward=-e.reward) for e in episodes]


KINDS = {
    "all episodes": Kind(),
    "published": Kind(published=True),
    "monte_carlo": Kind(critic="monte_carlo"),
    "40 episodes": Kind(few(40)),
    "10 episodes": Kind(few(10)),
    "success only": Kind(succeeded),
    "shuffled": Kind(shuffled),
    "negated": Kind(negated),
    "untrained": Kind(trained=False),
}


@dataclass(frozen=True)
class Data:
    """Episodes of one training seed, unspoilt."""

    contract: Contract
    trained: EpisodeArrays
    select: EpisodeArrays
    report: EpisodeArrays


@dataclass(frozen=True)
class Task:
    """A world, its kinds of critics and how they are trained; `flow` gives data and policy."""

    world: str
    kinds: tuple[str, ...]
    fit: FitConfig
    flow: Callable[[Path, int], tuple[Data, Path]]  # folder, training seed


@cache
def arm(out: Path, seed: int) -> tuple[Data, Path]:
    """Demonstrations as bags, and a policy by the ordinary path."""
    contract_path = world_folder("planar_arm") / "contract.yaml"
    bags, run = out / f"arm-bags-seed{seed}", out / f"arm-flow-seed{seed}"
    if not (run / "policy").exists():
        if not bags.exists():
            record(bags, "planar_arm", DEMONSTRATIONS, seed)
        fit(
            bags,
            contract_path,
            run,
            replace(FIT, seed=seed, workers=1),
            (run / checkpoint.FILE).exists(),
        )
    contract = Contract.load(contract_path)
    arrays, _ = prepare(bags, contract)
    groups = split(arrays, seed)
    parts = (arrays.pick(g) for g in (groups.train, groups.select, groups.report))
    return Data(contract, *parts), run / "policy"


@cache
def cube(out: Path, seed: int) -> tuple[Data, Path]:
    """What `bench/ogbench.py --out` made in the same folder. Half of the held-out play is select."""
    contract = play_contract("ur5e_cube")
    goals = make_world("ur5e_cube").goals  # type: ignore[attr-defined]
    trained, _ = play_episodes(out / "cube-single-play.npz", contract, goals)
    held, _ = play_episodes(out / "cube-single-play-val.npz", contract, goals)
    held = [e for e in held if len(e) >= contract.time.horizon]
    held.sort(key=lambda e: e.success is True)  # stable: as many successes in either half
    parts = map(EpisodeArrays.of, (trained, held[::2], held[1::2]))
    return Data(contract, *parts), out / f"{CUBE}-seed{seed}" / "policy"


TASKS = {
    "arm": Task(
        "planar_arm",
        tuple(k for k in KINDS if k != "published"),
        replace(FIT, steps=2000),
        arm,
    ),
    "cube": Task(
        "ur5e_cube",
        ("published", "all episodes", "10 episodes", "success only", "shuffled", "negated"),
        FitConfig(hidden=(256, 256), steps=3000, relative_actions=False),
        cube,
    ),
}


@dataclass(frozen=True)
class Pair:
    """One policy and one critic."""

    task: str
    seed: int
    kind: str

    @property
    def name(self) -> str:
        return f"{self.task} {self.seed} {self.kind}"

    @property
    def folder(self) -> str:
        return self.name.replace(" ", "-")

    @property
    def config(self) -> FitConfig:
        return replace(TASKS[self.task].fit, seed=self.seed, critic=KINDS[self.kind].critic)  # type: ignore[arg-type]

    def spoilt(self, episodes: Sequence[Episode], purpose: int) -> EpisodeArrays:
        """What this kind of critic is given of them."""
        rng = np.random.default_rng([20290, self.seed, purpose])
        return EpisodeArrays.of(KINDS[self.kind].spoil(episodes, rng))


@dataclass(frozen=True)
class Made:
    """A pair that was trained, and the policy folder that a user would have got."""

    data: Data
    policy: Policy
    nets: Nets
    config: FitConfig


def make(pair: Pair, out: Path) -> Made:
    """Trains the critic and writes the pair's policy."""
    torch.set_num_threads(1)
    data, folder = TASKS[pair.task].flow(out, pair.seed)
    base, config = load_policy(folder), pair.config
    returns, kind = base.description.returns, KINDS[pair.kind]
    velocity, own = networks(base)
    table = ChunkTable(data.select, base.horizon, returns.discount)
    batches = objective_of(data.contract).batches(table, base.codec, returns.scale, config)
    select = some(batches, SELECTED, config.seed)
    if kind.published:
        config = replace(config, hidden=base.description.critic.hidden)
        nets = Nets(velocity, own, lambda batch: torch.full_like(batch.reward, math.nan))
        informative = True
    else:
        learner, informative = _learnt(pair, data, base, out / f"{pair.folder}-run")
        nets = Nets(velocity, learner.target_critic, learner.target)
    beta, sanity = guidance_scale(velocity, nets.critic, select, config)
    if not informative:  # as training has it
        beta = replace(beta, default=math.inf)
    d = replace(
        base.description,
        critic=Network("critic.safetensors", config.hidden, config.members),
        returns=replace(returns, informative=informative),
        beta=beta,
        sanity=sanity,
        export=None,
        provenance=dict(base.description.provenance) | {"critic": pair.name},
    )
    weights = {name.removeprefix("mlp."): p.numpy() for name, p in nets.critic.state_dict().items()}
    policy = out / pair.folder
    write_policy(policy, d, {"velocity.safetensors": base.velocity, "critic.safetensors": weights})
    return Made(data, load_policy(policy), nets, config)


def _learnt(pair: Pair, data: Data, base: Policy, run: Path) -> tuple[Learner, bool]:
    """The critic of the spoilt data, and whether that showed any difference in return."""
    config, kind, returns = pair.config, KINDS[pair.kind], base.description.returns
    torch.manual_seed(config.seed)
    # The flow is there already: a net of one unit is trained in its place and thrown away.
    velocity = VelocityField(base.obs_dim, base.flat_dim, (1,))
    critic = Critic(base.obs_dim, base.flat_dim, config.hidden, config.members)
    learner = learner_of(config.critic).of(velocity, critic, config, base.obs_dim, base.horizon)
    if not kind.trained:
        return learner, True
    trained, held = pair.spoilt(data.trained, 0), pair.spoilt(data.select, 1)
    batches, held_batches = (
        objective_of(data.contract).batches(
            ChunkTable(e, base.horizon, config.discount), base.codec, returns.scale, config
        )
        for e in (trained, held)
    )
    identity = {"data": data_hash(trained), "critic": pair.name}
    run.mkdir(parents=True, exist_ok=True)
    train(learner, batches, some(held_batches, SELECTED, config.seed), config, run, identity)
    return learner, return_scale(trained, config.discount) > 1e-9
