"""Encoders of cameras while they are learnt, and what was learnt on all frames.

Recorded observations hold numbers of frames in the first of a camera's columns (`pipeline/frames.py`). A
learner puts features in their place for each batch; when it is done, `encoded` does so for whole datasets,
and whoever comes afterwards sees plain numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from qgf_ros.errors import UsageError
from qgf_ros.spaces.contract import Contract
from qgf_ros.spaces.normalizer import Normalizer
from training.encoders import ENCODERS, encoder_of
from training.learn.critics.batch import ChunkBatch
from training.pipeline.episodes import Episode, EpisodeArrays
from training.pipeline.frames import BLOCK, ByColumn, Frames

Features = Mapping[int, Tensor]  # (B, F) by the camera's first column


# By the camera's name: its encoder, and the frames that it was learnt on or shown.
Seen = Mapping[str, tuple[nn.Module, Frames]]


class CameraEncoders(nn.Module):
    """One encoder for each camera whose frames are given.

    frames: by the first column of the camera in the observation.
    """

    def __init__(self, contract: Contract, frames: ByColumn):
        super().__init__()
        self.frames = dict(frames)
        sources = {contract.observation_slices[o.name].start: o for o in contract.observations}
        self.nets = nn.ModuleDict({str(column): encoder_of(sources[column]) for column in sorted(frames)})
        self.names = {column: sources[column].name for column in sorted(frames)}

    @property
    def seen(self) -> Seen:
        return {
            name: (self.nets[str(column)], self.frames[column]) for column, name in self.names.items()
        }

    def features(self, obs: Tensor) -> dict[int, Tensor]:
        """obs: (B, O) with numbers of frames -> (B, F) by column."""
        found = {}
        for column, frames in self.frames.items():
            numbers = obs[:, column].to(torch.int64).numpy()
            found[column] = self.nets[str(column)](torch.from_numpy(frames[numbers]))
        return found

    def forward(self, obs: Tensor) -> Tensor:
        """obs: (B, O) with numbers of frames -> (B, O) with features."""
        return with_features(obs, self.features(obs))

    def see(
        self, batch: ChunkBatch, features: Features, ahead: bool, stopped: bool = False
    ) -> ChunkBatch:
        """The batch with features in place of frame numbers. What the flow sees apart from the critic has
        the same images.

        Args:
            features: of `obs`.
            ahead: `next_obs` is looked at too, without a gradient.
            stopped: the critic's gradient does not reach the features.
        """
        of_critic = {c: f.detach() for c, f in features.items()} if stopped else features
        seen = replace(batch, obs=with_features(batch.obs, of_critic))
        if batch.flow_obs is not None or stopped:
            seen = replace(seen, flow_obs=with_features(batch.seen_by_flow, features))
        if ahead:
            with torch.no_grad():
                seen = replace(seen, next_obs=self(batch.next_obs))
        return seen


def with_features(obs: Tensor, features: Features) -> Tensor:
    """(B, O) with these columns."""
    parts, at = [], 0
    for column in sorted(features):
        parts += [obs[:, at:column], features[column]]
        at = column + features[column].shape[1]
    return torch.cat([*parts, obs[:, at:]], dim=1)


def check(contract: Contract) -> None:
    """Raises UsageError where an encoder is not known, or an image would have to be a goal."""
    for o in contract.observations:
        if o.is_camera:
            assert o.encoder is not None
            if o.encoder.kind not in ENCODERS.own or o.is_learnt:
                encoder_of(o)
            if contract.outcome.goal is not None and contract.outcome.goal.observation == o.name:
                raise UsageError(f"goal.observation is {o.name}, a camera; a goal has to be told in numbers")


def as_they_are(normalizer: Normalizer, contract: Contract) -> Normalizer:
    """Features that are learnt, and numbers of frames, are not normalised: such an encoder has a scale of
    its own. Those of a frozen one are numbers as any other."""
    mean, std = normalizer.obs_mean.copy(), normalizer.obs_std.copy()
    for part in columns(contract):
        mean[part], std[part] = 0.0, 1.0
    return replace(normalizer, obs_mean=mean, obs_std=std)


def columns(contract: Contract) -> list[slice]:
    """Of the observation, each camera's whose encoder is learnt."""
    return [contract.observation_slices[o.name] for o in contract.cameras if o.is_learnt]


@torch.no_grad()
def tables(encoders: CameraEncoders) -> dict[int, np.ndarray]:
    """(N, F) float32 by column: the features of every frame."""
    found = {}
    for column, frames in encoders.frames.items():
        net = encoders.nets[str(column)]
        found[column] = np.concatenate([
            net(torch.from_numpy(frames[np.arange(at, min(at + BLOCK, len(frames)))])).numpy()
            for at in range(0, len(frames), BLOCK)
        ])  # fmt: skip
    return found


def encoded(episodes: Sequence[Episode], features: Mapping[int, np.ndarray]) -> Sequence[Episode]:
    """The same episodes with features, as `tables` gives them, and without frames."""
    if not episodes:
        return episodes
    arrays = EpisodeArrays.of(episodes)
    obs = np.array(arrays.obs, np.float32)
    for column, table in features.items():
        obs[:, column : column + table.shape[1]] = table[obs[:, column].astype(np.int64)]
    return replace(arrays, obs=obs, frames={})
