"""What a critic shows by itself, without any outcome: its gradient, its members, Q off the data."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from qgf_ros.statistics import Interval, interval, share
from training.judge import critic_metrics
from training.judge.analysis.reach import OUTSIDE, distance, nearest
from training.judge.analysis.sensitivity import cosine
from training.judge.panels.fitness.check import LONGER, Check, two, unknown
from training.judge.panels.fitness.evidence import Evidence
from training.judge.subject import Subject

STATES, CLIMBED = 256, 128  # at which gradients are taken, and from which Q is climbed
NUDGE, STEADY = 0.1, 0.5  # per number of a_t; cosine of the gradients before and after
AGREE = 0.1  # cosine of two members' gradients
SPARSE, STEEP = 0.05, 0.01  # shares of gradients that are 0, and beyond the policy's bound
FAR, STRIDES = 4.0, 8  # radii of the data that Q is climbed, in so many strides
PROMISED = 0.25  # of the range of returns


def gradient(subject: Subject) -> Check:
    """Along unguided paths, where the sampler asks for it."""
    asks, want = (
        "Can its gradient be used?",
        f"finite, not 0, cosine under noise of {NUDGE} above {STEADY}",
    )
    model, states = subject.model, subject.select.held.pool[:STATES]
    unit = states.noise(subject.seed + 1, model.steps)
    found = []
    for k, (a, _) in enumerate(model.path(states.obs, states.noise(subject.seed))):
        g, near = (model.gradient("qgf", states.obs, x, k) for x in (a, a + NUDGE * unit[k]))
        found.append((g, cosine(g, near)[0]))
    g, turned = (torch.stack(x) for x in zip(*found))
    norm = g.double().norm(dim=-1)
    finite, zero = float(g.isfinite().all(-1).double().mean()), float((norm == 0).double().mean())
    steep = float((norm > subject.policy.description.sanity.gradient_norm).double().mean())
    steady = interval(turned.T, states.episode)
    if finite < 1 or zero > 0.5:
        says = f"{1 - finite:.0%} of the gradients are not finite, {zero:.0%} are 0: there is nothing to guide with."
        return Check("gradient", asks, steady, want, "bad", says, (LONGER,))
    well = zero <= SPARSE and steep <= STEEP and steady.mean >= STEADY
    says = (
        f"The gradient is finite, 0 in {zero:.0%} and beyond the policy's bound in {steep:.0%} of the "
        f"steps; where a_t moves by {NUDGE} it keeps its direction: cosine {two(steady)}."
    )
    return Check(
        "gradient", asks, steady, want, "ok" if well else "warn", says, () if well else (LONGER,)
    )


def members(subject: Subject, found: Evidence) -> Check:
    """Whether the members of the ensemble would push the same way."""
    asks, want = (
        "Do its members push the same way?",
        f"cosine of their gradients: interval above 0, {AGREE} or more",
    )
    obs, critic = found.batch.obs, subject.model.critic
    with torch.enable_grad():
        a = found.sampled.detach().requires_grad_()
        each = critic(obs, a)
        if len(each) < 2:
            why = "The critic has one member: there is nobody to disagree."
            return unknown("members", asks, want, why, decides=False)
        g = torch.stack([torch.autograd.grad(q.sum(), a, retain_graph=True)[0] for q in each])
    pairs = torch.combinations(torch.arange(len(g)))
    value = interval(cosine(g[pairs[:, 0]], g[pairs[:, 1]])[0].T, found.episode)
    ok = value.low > 0 and value.mean >= AGREE
    says = (
        f"The critic's members push {'much' if value.mean > 0.5 else 'somewhat' if ok else 'hardly'} "
        f"the same way: cosine {two(value)}."
    )
    return Check(
        "members", asks, value, want, "ok" if ok else "warn", says, () if ok else (LONGER,)
    )


def off_data(subject: Subject, found: Evidence) -> Check:
    """Whether the members notice what they have not seen, so that their minimum is careful there."""
    asks = "Do its members disagree more about chunks from elsewhere?"
    want = "spread beside that on recorded ones: interval above 1"
    critic, batch = subject.model.critic, found.batch
    if len(critic(batch.obs[:1], batch.action[:1])) < 2:
        why = "The critic has one member: its minimum is no caution."
        return unknown("off_data", asks, want, why, decides=False)
    result = critic_metrics.disagreement(
        critic, batch.obs, batch.action, found.episode, subject.seed
    )
    value = Interval(**result["elsewhere_ratio"])
    if math.isnan(value.low):
        why = "Members that never differ, or are no numbers, or a single episode: nothing to hold beside each other."
        return unknown("off_data", asks, want, why, decides=False)
    ok = value.low > 1
    says = (
        f"Beside recorded chunks the members are {value.mean:.1f} times as far apart on chunks from "
        f"elsewhere, {result['uniform_ratio']['mean']:.1f} times on noise: their minimum "
        f"{'is careful off the data' if ok else 'does not notice where the data ends'}."
    )
    todo = () if ok else ("stay at gentle betas, with guidance.support on; more members help",)
    return Check("off_data", asks, value, want, "ok" if ok else "warn", says, todo, decides=False)


def rise(subject: Subject) -> tuple[Check, list[dict[str, Any]]]:
    """Q on a climb along its own gradient from what was recorded, and the climb for a figure."""
    asks = f"Does Q promise more than any recorded chunk, {FAR:g} radii off the data?"
    want = f"at most {PROMISED} of the range of returns"
    held, model = subject.select.held, subject.model
    start = held.pool[:CLIMBED]
    if not held.comparable:
        why = "There is a single episode: nothing says where the data ends."
        return unknown("rise", asks, want, why, decides=False), []
    near = nearest(start, held.recorded)
    radius = float(distance(start.action, near).double().quantile(OUTSIDE))
    best = _best(subject, start.obs, near)
    stride = radius * FAR / STRIDES
    a, climb = start.action, []
    for i in range(STRIDES + 1):
        q = model.q(start.obs, a)
        climb.append(
            {
                "stride": i * FAR / STRIDES,
                "distance": float(distance(a, near).mean()) / max(radius, 1e-12),
                "q": asdict(interval(q - best, start.episode)),
            }
        )
        a = _uphill(subject, start.obs, a, stride)
    if not (q - best).isfinite().all():
        why = "Q is not a finite number everywhere on a climb."
        return unknown("rise", asks, want, why, decides=False), []
    value = interval(q - best, start.episode)
    over = share(q > best, start.episode)
    ok = value.mean <= PROMISED
    says = (
        f"Climbed along its own gradient, {FAR:g} radii off the data, Q is {value.mean:+.2f} beside the best "
        f"chunk recorded nearby, and above it in {over.mean:.0%} of the states"
        + (": it rises where nobody has been." if not ok else ".")
    )
    todo = () if ok else ("keep guidance.support on and beta at the gentler suggestions",)
    return Check(
        "rise", asks, value, want, "ok" if ok else "warn", says, todo, decides=False
    ), climb


def _best(subject: Subject, obs: Tensor, near: Tensor) -> Tensor:
    """(B,) the largest Q of the chunks near (B, K, D), inf where there are fewer."""
    count = near.shape[1]
    q = subject.model.q(obs.repeat_interleave(count, 0), near.flatten(0, 1).nan_to_num(posinf=0.0))
    there = near.isfinite().all(-1)
    return q.view(-1, count).masked_fill(~there, -torch.inf).amax(1)


def _uphill(subject: Subject, obs: Tensor, a: Tensor, stride: float) -> Tensor:
    """a (B, D) moved by `stride` per number along grad Q, within the bounds of actions."""
    with torch.enable_grad():
        x = a.detach().requires_grad_()
        (g,) = torch.autograd.grad(subject.model.q(obs, x).sum(), x)
    length = g.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    bound = subject.model.bound
    return (a + g / length * stride * a.shape[1] ** 0.5).clamp(-bound, bound)
