"""Every state and every event, one row each; then 10^5 random events against what must always hold."""

import random

import pytest
from qgf_make import SCALE, SECOND, START

from qgf_ros.control.reasons import Problem
from qgf_ros.control.supervisor import (
    DISABLED,
    ESCALATE_COUNT,
    HEALTHY_TICKS,
    State,
    Supervisor,
)

T = SECOND // 20
STALE, JUMP = Problem("STATE_STALE", "joints", "old"), Problem("CLOCK_JUMP", "", "jumped")
ESTOP = Problem("ESTOP", "", "pressed")

# How to come into each situation from a new supervisor.
SITUATIONS = {
    "WAITING": [],
    "WAITING enabled": ["start enabled"],
    "WAITING for a topic": ["problem"],
    "READY": ["ok"],
    "READY enabled": ["ok", "enable"],
    "RUN": ["ok", "enable", "ok"],
    "RUN disabled": ["ok", "enable", "ok", "disable"],
    "HOLD": ["ok", "enable", "ok", "problem"],
    "HOLD disabled": ["ok", "enable", "ok", "problem", "disable"],
    "HOLD recovering": ["ok", "enable", "ok", "problem", *["ok"] * (HEALTHY_TICKS - 1)],
    "HOLD DISABLED": ["ok", "enable", "ok", "disable", "ok"],
    "HOLD TAKEOVER": ["ok", "enable", "ok", "takeover"],
    "HOLD CLOCK_JUMP": ["ok", "enable", "ok", "jump"],
    "HOLD for the third time": ["ok", "enable", "ok", *["problem", *["ok"] * HEALTHY_TICKS] * 2],
    "FAULT": ["ok", "enable", "ok", "estop"],
}
EVENTS = ("ok", "problem", "ten", "enable", "disable", "reset", "estop", "jump", "takeover")


def happen(s, event, now):
    """The answer of `enable`, "" for everything else."""
    if event in ("ok", "problem", "disabled"):
        s.update(now, {"ok": None, "problem": STALE, "disabled": DISABLED}[event])
    elif event == "ten":
        for k in range(HEALTHY_TICKS):
            s.update(now + k * T, None)
    elif event in ("enable", "disable"):
        return s.enable(event == "enable")
    elif event == "estop":
        s.fault(ESTOP)
    elif event == "jump":
        s.interrupt(JUMP)
    elif event == "takeover":
        s.takeover("somebody")
    elif event == "reset":
        s.reset()
    else:
        s.enabled = True
    return ""


def bring(situation):
    s = Supervisor()
    for k, event in enumerate(SITUATIONS[situation]):
        assert happen(s, event, START + k * T) == ""
    return s


FAULTED = "FAULT ESTOP"
# situation: what each of EVENTS leads to: state, "+" if enabled, reason; "no" where it is refused.
TABLE = {
    "WAITING": ["READY", "WAITING STATE_STALE", "READY", "WAITING no", "WAITING", "WAITING", FAULTED, "WAITING", "WAITING"],
    "WAITING enabled": ["RUN+", "WAITING+ STATE_STALE", "RUN+", "WAITING+ no", "WAITING", "WAITING", FAULTED, "WAITING+", "WAITING"],
    "WAITING for a topic": ["READY", "WAITING STATE_STALE", "READY", "WAITING STATE_STALE no", "WAITING STATE_STALE", "WAITING", FAULTED, "WAITING STATE_STALE", "WAITING STATE_STALE"],
    "READY": ["READY", "WAITING STATE_STALE", "READY", "READY+", "READY", "WAITING", FAULTED, "READY", "READY"],
    "READY enabled": ["RUN+", "WAITING STATE_STALE", "RUN+", "READY+", "READY", "WAITING", FAULTED, "READY+", "READY"],
    "RUN": ["RUN+", "HOLD+ STATE_STALE", "RUN+", "RUN+", "RUN", "WAITING", FAULTED, "HOLD+ CLOCK_JUMP", "HOLD TAKEOVER"],
    "RUN disabled": ["HOLD DISABLED", "HOLD STATE_STALE", "HOLD DISABLED", "RUN+", "RUN", "WAITING", FAULTED, "HOLD CLOCK_JUMP", "HOLD TAKEOVER"],
    "HOLD": ["HOLD+ STATE_STALE", "HOLD+ STATE_STALE", "RUN+", "HOLD+ STATE_STALE", "HOLD STATE_STALE", "WAITING", FAULTED, "HOLD+ STATE_STALE", "HOLD STATE_STALE"],
    "HOLD disabled": ["HOLD STATE_STALE", "HOLD STATE_STALE", "READY", "HOLD STATE_STALE no", "HOLD STATE_STALE", "WAITING", FAULTED, "HOLD STATE_STALE", "HOLD STATE_STALE"],
    "HOLD recovering": ["RUN+", "HOLD+ STATE_STALE", "RUN+", "HOLD+ STATE_STALE", "HOLD STATE_STALE", "WAITING", FAULTED, "HOLD+ CLOCK_JUMP", "HOLD TAKEOVER"],
    "HOLD DISABLED": ["HOLD DISABLED", "HOLD STATE_STALE", "READY", "HOLD+ DISABLED", "HOLD DISABLED", "WAITING", FAULTED, "HOLD DISABLED", "HOLD DISABLED"],
    "HOLD TAKEOVER": ["HOLD TAKEOVER", "HOLD STATE_STALE", "READY", "HOLD+ TAKEOVER", "HOLD TAKEOVER", "WAITING", FAULTED, "HOLD TAKEOVER", "HOLD TAKEOVER"],
    "HOLD CLOCK_JUMP": ["HOLD+ CLOCK_JUMP", "HOLD+ STATE_STALE", "RUN+", "HOLD+ CLOCK_JUMP", "HOLD CLOCK_JUMP", "WAITING", FAULTED, "HOLD+ CLOCK_JUMP", "HOLD CLOCK_JUMP"],
    "HOLD for the third time": ["RUN+", "FAULT STATE_STALE", "RUN+", "RUN+", "RUN", "WAITING", FAULTED, "HOLD+ CLOCK_JUMP", "HOLD TAKEOVER"],
    "FAULT": [FAULTED, FAULTED, FAULTED, "FAULT ESTOP no", FAULTED, "WAITING", FAULTED, FAULTED, FAULTED],
}  # fmt: skip


def test_the_table_is_whole():
    assert TABLE.keys() == SITUATIONS.keys() and all(len(r) == len(EVENTS) for r in TABLE.values())


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("situation", TABLE)
def test_fault_113_114_116_every_state_and_every_event(situation, event):
    s = bring(situation)
    refusal = happen(s, event, START + 100 * T)
    reason = s.reason.code if s.reason else ""
    words = (f"{s.state.name}{'+' if s.enabled else ''}", reason, "no" if refusal else "")
    assert " ".join(w for w in words if w) == TABLE[situation][EVENTS.index(event)]
    if refusal:
        assert s.state.name in refusal, "a refusal says where the robot is"


@pytest.mark.parametrize("again", ["problem", "jump", "takeover", "disabled"])
def test_fault_002_hold_ends_after_ten_healthy_ticks_in_a_row_and_not_before(again):
    s = bring("HOLD")
    for count in (0, 1, HEALTHY_TICKS - 1):
        for k in range(count):
            assert s.update(START + k * T, None) is State.HOLD
        happen(s, again, START)
        assert s.state is State.HOLD
    for k in range(HEALTHY_TICKS - 1):
        assert s.update(START + k * T, None) is State.HOLD
    assert s.update(START, None) in (State.RUN, State.READY)


# Escalation: one code, or one topic.


def holds(*codes, gap=SECOND):
    s, now = Supervisor(True), START
    s.update(now, None)
    for code in codes:
        if s.state is State.FAULT:
            break
        now += gap
        s.update(now, Problem.parse(code, "x"))
        for _ in range(HEALTHY_TICKS):
            s.update(now, None)
    return s


@pytest.mark.parametrize("codes, faulted", [
    (["STATE_STALE:a"] * 2, False),
    (["STATE_STALE:a"] * 3, True),
    (["STATE_OOD:a.x", "STATE_OOD:a.y", "STATE_OOD:b.z"], True),  # one code, whatever about
    (["STATE_STALE:a", "STATE_SCHEMA:a", "STATE_NONFINITE:a"], True),  # one topic, whatever it does
    (["STATE_STALE:a", "STATE_SCHEMA:b", "STATE_NONFINITE:c"], False),
    (["OVERRUN", "INFERENCE", "ACTION_NONFINITE"], False),  # about nothing in common
    (["OVERRUN", "INFERENCE", "OVERRUN", "STATE_STALE:a", "OVERRUN"], True),
    (["DISABLED", "DISABLED", "DISABLED"], False),  # what a person does is no sign of trouble
    (["TAKEOVER", "TAKEOVER", "TAKEOVER"], False),
])  # fmt: skip
def test_fault_002_three_related_holds_are_a_fault(codes, faulted):
    s = holds(*codes)
    assert (s.state is State.FAULT) == faulted
    if faulted:
        assert (
            s.reason.code_text == codes[-1]
            and "3 times in 10 s" in s.reason.detail
            and not s.enabled
        )


def test_fault_002_holds_that_lie_apart_are_forgotten():
    assert holds(*["STATE_STALE:a"] * 3, gap=5 * SECOND).state is State.FAULT, "10 s count"
    assert holds(*["STATE_STALE:a"] * 9, gap=5 * SECOND + 1).state is State.RUN


def test_fault_002_interrupts_do_not_escalate():
    s = bring("RUN")
    for _ in range(9):
        s.interrupt(JUMP)
        happen(s, "ten", START)
        assert s.state is State.RUN


# What holds whatever happens.


@pytest.mark.parametrize("seed", range(4))
def test_fault_113_114_random_walk_of_100000_events(seed):
    """Against a short memory of what happened, not against a second state machine."""
    rng, s, now = random.Random(seed), Supervisor(), START
    healthy, holds = 0, []  # ticks in a row; when and why it held
    problems = [
        STALE,
        Problem("STATE_STALE", "goal", ""),
        Problem("OVERRUN", "", ""),
        Problem("STATE_SCHEMA", "goal", ""),
    ]
    weights = [40, 6, 2, 8, 3, 2, 1, 1, 1]
    for _ in range(25_000 * SCALE):
        event = rng.choices(EVENTS, weights)[0]
        now += rng.choice([T, T, T, SECOND, 6 * SECOND]) if event in ("ok", "problem") else 0
        before, was_enabled = s.state, s.enabled
        problem = rng.choice(problems)
        if event == "problem":
            s.update(now, problem)
        elif event == "ten":
            event = "ok"
            s.update(now, None)
        else:
            refusal = happen(s, event, now)
        after = s.state

        if after is State.RUN and before is not State.RUN:
            assert s.enabled and event == "ok" and s.reason is None, "RUN only by a healthy tick"
        assert not (s.enabled and after is State.FAULT)
        assert s.enabled or after is not State.RUN or event not in ("ok", "problem")
        if s.enabled and not was_enabled:
            assert event == "enable" and not refusal, "nobody but a person enables"
            assert before in (State.READY, State.RUN, State.HOLD), "never for a later moment"
        if event == "enable" and before in (State.WAITING, State.FAULT):
            assert refusal and not s.enabled or was_enabled
        if before is State.FAULT:
            assert after is (State.WAITING if event == "reset" else State.FAULT)
        if event == "estop":
            assert after is State.FAULT
        if event in ("disable", "takeover", "reset", "estop"):
            assert not s.enabled

        healthy = healthy + 1 if event == "ok" and before is State.HOLD else healthy
        if event in ("problem", "jump", "takeover") or (
            after is State.HOLD and before is State.RUN
        ):
            healthy = 0
        if before is State.HOLD and after in (State.RUN, State.READY):
            assert healthy == HEALTHY_TICKS, "HOLD is never shorter"
        if event == "reset":
            holds.clear()
        if event == "problem" and before is State.RUN:
            holds.append((now, problem))
            recent = [p for at, p in holds if now - at <= 10 * SECOND]
            alike = sum(
                p.code == problem.code or bool(p.subject) and p.subject == problem.subject
                for p in recent
            )
            assert after is (State.FAULT if alike >= ESCALATE_COUNT else State.HOLD)
