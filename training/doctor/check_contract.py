"""What training by a contract would keep and see."""

from __future__ import annotations

from collections import Counter

from training.doctor.check import SHOWN, Check, unseen
from training.doctor.dataset import Dataset

BEYOND = 0.001  # share of ticks whose command a contract's limits may clip
KEPT = 0.95  # share of ticks that a contract should keep


def kept(data: Dataset) -> Check | None:
    """What alignment makes of it; None without a contract."""
    part = data.aligned
    if part is None:
        return None
    lost = {why: n for why, n in part.report.dropped.items() if n}
    ticks = part.report.ticks
    share = ticks / max(1, ticks + lost.get("tick without fresh data", 0))
    places = [f"{n} x {why}" for why, n in Counter(lost).most_common(SHOWN)]
    places += [f"{name}: {why}" for name, why in part.refused.items()][:SHOWN]
    text = f"{part.report.episodes} episodes, {ticks} ticks kept ({share:.1%})"
    rejected = {why: n for why, n in lost.items() if why.startswith("message ")}
    if rejected:
        worst, count = Counter(rejected).most_common(1)[0]
        text += f"; {sum(rejected.values())} messages cannot be used, {count} x {worst}"
    if part.refused:
        first, why = next(iter(part.refused.items()))
        text += f"; {len(part.refused)} recordings do not fit the contract; {first}: {why}"
    if not ticks or part.refused or share < KEPT:
        return Check(
            "contract",
            "bad",
            text,
            "write the names and columns that the recordings have into the contract"
            if part.refused
            else "see which source is missing or older than its max_age; raise max_age only if the robot may too",
            tuple(places),
        )
    return Check(
        "contract",
        "warn" if lost else "ok",
        text,
        "find out why messages are rejected: where they were commands nothing says what was sent"
        if rejected
        else "nothing to do if the counts are small" * bool(lost),
        tuple(places),
    )


def fresh(data: Dataset) -> Check | None:
    if data.aligned is None or data.contract is None:
        return None
    places, oldest = [], 0.0
    for source in data.contract.observations:
        sample = data.aligned.ages.get(source.name)
        if sample is None or not len(sample.rows):
            continue
        late, limit = float(sample.quantile(0.99)[0]), data.contract.max_age(source)
        oldest = max(oldest, late)
        if late > limit:
            places.append(
                f"{source.name}: 1 % are older than {late * 1e3:.3g} ms, max_age is {limit * 1e3:.3g} ms"
            )
    if places:
        return Check(
            "ages", "warn", f"{len(places)} observations are often older than their max_age",
            "ticks without fresh data are dropped here, and hold the robot there; publish faster, or raise max_age",
            tuple(places),
        )  # fmt: skip
    if not any(len(sample.rows) for sample in data.aligned.ages.values()):
        return unseen("ages", "no observation has two messages in an episode")
    return Check(
        "ages", "ok", f"99 % of observations are replaced before they are {oldest * 1e3:.3g} ms old"
    )


def limits(data: Dataset) -> Check | None:
    if data.aligned is None or data.contract is None or not data.aligned.report.ticks:
        return None
    ticks = data.aligned.report.ticks
    places = []
    for name, beyond, faster in zip(
        data.contract.action_names, data.aligned.beyond, data.aligned.faster
    ):
        if beyond > BEYOND * ticks:
            places.append(
                (beyond, f"{name}: {beyond / ticks:.2%} of commands are beyond its limits")
            )
        if faster > BEYOND * ticks:
            places.append((faster, f"{name}: {faster / ticks:.2%} of changes are beyond its rate"))
    if not places:
        return Check(
            "limits", "ok", f"{1 - BEYOND:.1%} of every command keep to the contract's limits"
        )
    places.sort(reverse=True)
    return Check(
        "limits",
        "warn",
        f"{len(places)} commanded numbers go beyond the contract's limits",
        "the gate will clip such commands: widen limits that are too narrow, or check the units",
        tuple(text for _, text in places[:SHOWN]),
    )


def rewards(data: Dataset) -> Check | None:
    if data.aligned is None or data.contract is None or not data.aligned.episodes:
        return None
    if data.contract.outcome.objective == "reach_goal":
        return None  # earned by whatever was reached, when chunks are drawn
    low, high = data.aligned.rewards
    totals = [e.total for e in data.aligned.episodes]
    text = f"reward of a period {low:.4g} to {high:.4g}, of an episode {min(totals):.4g} to {max(totals):.4g}"
    ended = {round(e.total, 9) for e in data.aligned.episodes if e.terminal}
    if low == high and len(ended) > 1:
        text = f"the reward is always {low:.4g}: what counts is how soon an episode ends; {text}"
    elif low == high:
        return Check(
            "rewards", "bad", f"the reward is always {low:.4g}, and no episode ends sooner than another",
            "a critic learns nothing from it: look at the reward's topic, or take another objective",
        )  # fmt: skip
    return Check("rewards", "ok", text)
