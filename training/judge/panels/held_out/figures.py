"""What `qgf train` wrote to report.json, from the policy alone and of the same episodes."""

from __future__ import annotations

from typing import Any

from training.export.parity import networks
from training.judge.metrics import Nets, judge
from training.judge.panels.fitness.evidence import config_of
from training.judge.subject import Subject
from training.learn.prepare import with_a_chunk
from training.pipeline.episodes import EpisodeArrays


def figures(subject: Subject, **_: Any) -> dict[str, Any]:
    """Those of `training.judge.metrics`, of the report split; or {absent: why}. What Q was trained to
    predict is not known of a policy, which does not hold the value network."""
    policy, episodes = subject.policy, EpisodeArrays.of(subject.episodes)
    held = with_a_chunk(episodes.pick(subject.split.report), policy.horizon)
    if not held:
        return {"absent": "too few episodes to hold some out"}
    return judge(
        Nets(*networks(policy), None),
        policy.codec,
        policy.description.returns.scale,
        policy.contract,
        episodes.pick(subject.split.train),
        held,
        config_of(subject),
        subject.seed,
        policy.description.beta.default,
    ).document
