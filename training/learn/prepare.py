"""Recorded episodes to what is trained on: normalised, with the scale of returns, and chunks that
are cut out of them as they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qgf_ros.console import say
from qgf_ros.errors import DataRefused, UsageError
from qgf_ros.spaces.actions.codec import ActionCodec, Representation
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.normalizer import Normalizer
from training.learn import cameras
from training.learn.batches import Batches, some
from training.learn.config import FitConfig
from training.learn.critics.batch import ChunkBatch
from training.learn.objectives import objective_of
from training.pipeline.chunks import Chunks, ChunkTable
from training.pipeline.episodes import Episode, EpisodeArrays

# Looked at where all of a large dataset would not fit in memory.
MEASURED = 32_768  # chunks that the normaliser and the support are from
SELECTED = 4096  # held-out chunks that the critic and the scale of beta are chosen on


@dataclass(frozen=True, eq=False)
class Groups:
    """Episodes by what they are for."""

    train: Sequence[Episode]
    select: Sequence[Episode]  # the critic and the scale of beta are chosen on
    report: Sequence[Episode] = ()  # nothing is trained or chosen on


@dataclass(frozen=True, eq=False)
class Prepared:
    """What is trained on, and what for."""

    contract: Contract
    train: EpisodeArrays
    report: Sequence[Episode]  # long enough for a chunk each
    measured: Chunks  # some of those that are trained on
    codec: ActionCodec
    scale: float  # of returns
    informative: bool  # the data shows a difference in return
    batches: Batches
    select: ChunkBatch


def prepare(
    groups: Groups, contract: Contract, config: FitConfig, again: bool = False
) -> Prepared:
    """again: the same episodes, with features in place of frames; what there was to say is said.

    Raises UsageError or DataRefused where these episodes cannot be trained on by `config`.
    """
    objective, horizon = objective_of(contract), contract.time.horizon
    cameras.check(contract)
    if config.bounded and not objective.bounded:
        raise UsageError(
            "bounded is for returns in [0, 1], objective time_to_success or reach_goal; the contract's "
            f"objective is {contract.outcome.objective}: leave bounded out"
        )
    trained = EpisodeArrays.of(groups.train)
    held, reported = (with_a_chunk(group, horizon) for group in (groups.select, groups.report))
    if not held and not again:
        say("nothing is held out: the figures and the scale of beta are from the training data")
    table = ChunkTable(trained, horizon, config.discount)
    held_table = ChunkTable(held, horizon, config.discount) if held else table
    if len(table) < config.batch:
        raise DataRefused(
            f"{len(table)} chunks to train on, and a batch has {config.batch}; record more, or give a smaller --batch"
        )
    rng = np.random.default_rng([20270, config.seed])
    measured = table.cut(rng.choice(len(table), min(MEASURED, len(table)), replace=False), False)
    reference = contract.relative_positions if config.relative_actions else None
    learnt = Representation(contract).to_policy(measured.action, measured.origin)
    fitted = Normalizer.fit(measured.obs, learnt, contract.observation_siblings, reference)
    normalizer = objective.normalizer(cameras.as_they_are(fitted, contract))
    codec = ActionCodec(contract, normalizer)
    scale, informative = objective.returns(table, config)
    batches, held_batches = (
        objective.batches(t, codec, scale, config) for t in (table, held_table)
    )
    select = some(held_batches, SELECTED, config.seed)
    return Prepared(
        contract, trained, reported, measured, codec, scale, informative, batches, select
    )


def with_a_chunk(episodes: Sequence[Episode], horizon: int) -> Sequence[Episode]:
    """Those that are long enough for a chunk."""
    if not episodes:
        return ()
    arrays = EpisodeArrays.of(episodes)
    return arrays.pick(np.flatnonzero(arrays.terminal | (arrays.steps >= horizon)))


def warn(data: Prepared) -> None:
    """Says what will not do what its owner may expect."""
    half_range = data.codec.normalizer.action_half_range
    still = [n for n, r in zip(data.contract.learnt_names, half_range) if r == 0]
    if still:
        say(f"never varied, and will be commanded as a constant: {', '.join(still)}")
    if not data.informative:
        say(
            "the data shows no difference in return: the critic has nothing to learn, guidance will be off by default"
        )
