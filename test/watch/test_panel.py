"""What `qgf watch` draws and says, from messages alone: no ROS graph, no terminal."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from qgf_ros.console import plain
from qgf_ros.control.supervisor import State
from qgf_ros.watch.heard import GONE, STALE, Heard, clean, zone
from qgf_ros.watch.line import line
from qgf_ros.watch.marks import FONT, BetaAxis, bar, binned, letters
from qgf_ros.watch.panel import LOST, PAST, panel

NOW = 1000.0
NAN = math.nan


def status(state=State.RUN, **changes):
    fields = dict(
        state=int(state), reason="", detail="", warnings=[], enabled=True, tick=9, sequence=9, epoch=1,
        beta=0.11, policy_sha256="ab12", topics=["joint_states", "goal"], topic_age=[0.012, 0.03],
        state_score=0.0, inference_p50_ms=0.3, inference_p99_ms=0.5, inference_max_ms=0.9,
        achieved_rate=20.0, overruns=0, dropped=0, limit_hits=0,
    )  # fmt: skip
    return SimpleNamespace(**fields | changes)


def info(**changes):
    fields = dict(
        name="planar_arm", sha256="ab12", robot="arm", objective="reward", backend="native",
        device="cpu", backend_note="", period=0.05, horizon=5, execute_steps=5, denoise_steps=10,
        beta_default=0.11, beta_min=0.014, beta_suggested=[0.057, 0.11, 0.23],
    )  # fmt: skip
    return SimpleNamespace(**fields | changes)


def q_values(**changes):
    fields = dict(
        q_sampled=-0.1, q_unguided=-0.2, q_gain=0.1, ensemble_spread=0.02, gradient_norm=1.0,
        guidance_ratio=0.4, share_clipped=0.0, guards=[], seam_jump=0.05, tick_ms=0.4,
        observation_age=0.01,
    )  # fmt: skip
    return SimpleNamespace(**fields | changes)


def heard(state=State.RUN, age=0.1, q=None, policy=None, gate=None, **changes):
    """A node heard `age` s ago, and asked for the beta that it has."""
    found = Heard("/qgf")
    found.policy_info(NOW, policy or info())
    for i in range(40):
        found.q_values(NOW - 10 + i / 4, q or q_values())
    found.status(NOW - age, status(state, **changes))
    found.asked = {"beta": changes.get("beta", 0.11)}
    if gate is not None:
        found.gate.status(NOW, gate)
    return found


def shown(found, width=80, height=24):
    return "\n".join(text.plain for text in panel(found, NOW, width, height))


def row(found, name, width=80):
    return next(
        text for text in panel(found, NOW, width, 24) if text.plain.split("  ")[0].strip() == name
    )


def colours(text, part):
    """Styles of a part of a line."""
    begin = text.plain.index(part)
    spans = [str(s.style) for s in text.spans if s.start <= begin < s.end]
    return " ".join([str(text.style), *spans])


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("width, height", [(80, 24), (120, 40), (40, 10), (20, 5)])
def test_every_state_fits_the_terminal_and_is_the_largest_thing(state, width, height):
    lines = panel(heard(state, warnings=["OOD: a number"] * 30), NOW, width, height)
    assert len(lines) <= height and all(text.cell_len <= width for text in lines)
    room = width - 25 if width >= 47 else width - 3
    drawn = letters(state.name, room)
    assert all(part in text.plain for part, text in zip(drawn, lines))


def test_block_letters_are_known_for_every_word_of_the_banner():
    assert set("".join([*State.__members__, "GONE", "NO NODE"])) <= set(FONT)
    assert letters("RUN", 60)[0].startswith("██████")
    assert len(letters("UNCONFIGURED", 70)[1]) < 70, "half as large where room is short"


def test_a_reason_is_said_in_words_with_its_fix():
    found = heard(State.HOLD, reason="STATE_STALE:joint_states", detail="joint_states is 0.3 s old")
    text = shown(found)
    assert "joint_states is 0.3 s old" in text and "Look for a sensor, driver" in text
    assert "Look for a sensor" in line(found, NOW)
    assert "red" in colours(row(found, "heard"), "joint_states"), "the topic that it is about"


def test_a_reason_about_two_topics_marks_both_and_an_unknown_one_is_said_as_it_came():
    found = heard(State.WAITING, reason="STATE_MISSING:goal,joint_states", detail="waiting")
    assert all("red" in colours(row(found, "heard"), t) for t in ("joint_states", "goal"))
    found = heard(State.HOLD, reason="OF_TOMORROW:goal", detail="says a newer node")
    assert "OF_TOMORROW:goal: says a newer node" in shown(found) and "→" not in shown(found)
    assert "OF_TOMORROW:goal: says a newer node" in line(found, NOW)


def test_a_warning_is_said_with_its_fix():
    found = heard(warnings=["STAMP_ZERO:joint_states: it has stamp 0", "ODD: x"])
    assert "Let the driver stamp them" in shown(found, 120) and "! ODD: x" in shown(found)


def test_a_late_status_looks_stale_at_once_and_a_silent_node_is_gone_in_red():
    assert " 0.1 s" not in shown(heard())
    late = panel(heard(age=STALE + 0.1), NOW, 80, 24)
    assert "no word for 0.6 s" in late[1].plain and "green" not in str(late[0].style)
    assert {str(text.style) for text in late[10:23]} == {PAST}, "numbers of a node nobody hears"
    gone = panel(heard(age=GONE + 0.1), NOW, 80, 24)
    assert LOST in str(gone[0].style) and "was RUN" in gone[2].plain
    assert "only the robot's own controller" in shown(heard(age=9.0))
    text = shown(heard(age=9.0, gate=status(State.HOLD, reason="CANDIDATES_STOPPED")))
    assert "/qgf_gate is there, in HOLD CANDIDATES_STOPPED" in text


def test_a_node_that_said_goodbye_has_ended_and_is_not_killed():
    assert "/qgf has ended" in shown(heard(State.SHUTDOWN, age=9.0))


def test_before_anything_is_heard_it_says_what_it_waits_for():
    nothing = Heard("/arm/qgf")
    nothing.others = ["/other/qgf"]
    assert "waits for /arm/qgf/status (there is /other/qgf)" in shown(nothing)
    assert nothing.gate.name == "/arm/qgf_gate"
    nothing.status(NOW, status(policy_sha256="ab12"))
    assert "waits for /arm/qgf/policy_info, /arm/qgf/q_values" in shown(nothing)
    nothing.policy_info(NOW, info(sha256="of another policy"))
    assert nothing.info is None, "suggestions of a policy that is not loaded are worth nothing"


def test_nan_is_a_dash_and_a_q_of_the_past_is_no_number():
    found = heard(
        q=q_values(q_unguided=NAN, seam_jump=NAN), topic_age=[NAN, 0.01], state_score=NAN, inference_p99_ms=NAN
    )  # fmt: skip
    assert "nan" not in shown(found) and "joint_states –" in shown(found)
    assert row(found, "Q unguided").plain.split()[2] == "–"
    found.q, found.samples = None, type(found.samples)()
    assert row(found, "gain").plain.split()[1] == "–"
    old = heard(State.HOLD)
    old.q = old.q._replace(at=NOW - 7)
    assert "no sample for 7.0 s" in shown(old) and row(old, "gain").plain.split()[1] == "–"


@pytest.mark.parametrize(
    "beta, suggested, expected",
    [
        (math.inf, [0.1, 0.2, 0.4], "gentle"), (0.4, [0.1, 0.2, 0.4], "gentle"),
        (0.39, [0.1, 0.2, 0.4], "firm"), (0.1, [0.1, 0.2, 0.4], "firm"),
        (0.099, [0.1, 0.2, 0.4], "beyond"), (0.1, [], "unknown"), (math.inf, [], "gentle"),
        (NAN, [0.1, 0.2, 0.4], "unknown"),
    ],
)  # fmt: skip
def test_the_range_of_a_beta_is_that_of_the_policys_suggestions(beta, suggested, expected):
    assert zone(beta, suggested) == expected


@pytest.mark.parametrize("beta, colour", [(0.3, "green"), (0.11, "yellow"), (0.02, "red")])
def test_the_colour_of_beta_and_of_the_bar_under_its_mark(beta, colour):
    lines = panel(heard(beta=beta), NOW, 80, 24)
    at = next(i for i, text in enumerate(lines) if text.plain.startswith("beta"))
    assert colour in colours(lines[at], f"{beta:.3g}")
    mark = lines[at + 1].plain.index("▼")
    spans = [str(s.style) for s in lines[at + 2].spans if s.start <= mark < s.end]
    assert spans == [colour]
    assert "0.014" in lines[at + 3].plain and "0.23" in lines[at + 3].plain


def test_a_slewing_beta_and_the_one_asked_for_are_both_marked():
    found = heard(beta=0.2)
    found.asked = {"beta": 0.03}
    lines = panel(found, NOW, 80, 24)
    at = next(i for i, text in enumerate(lines) if text.plain.startswith("beta"))
    assert "0.2 → 0.03 asked for" in lines[at].plain
    assert lines[at + 1].plain.index("▽") < lines[at + 1].plain.index("▼")
    found.asked = {"beta": math.inf}
    marks = panel(found, NOW, 80, 24)[at + 1].plain
    assert marks.index("▽") > marks.index("▼") and len(marks.rstrip()) > 70


def test_the_axis_is_logarithmic_from_the_floor_and_infinity_stands_apart():
    axis = BetaAxis(0.01, [0.1, 0.2, 0.4], [5.0], 65)
    columns = [axis.column(b) for b in (0.01, 0.1, 1.0, 5.0, math.inf)]
    assert columns[0] == 0 and columns == sorted(set(columns))
    assert abs((columns[2] - columns[1]) - (columns[1] - columns[0])) <= 1
    zones = axis.zones()
    assert len(zones) == 65 and zones[0] == "beyond" and zones[-1] == "gentle" and None in zones
    assert axis.labels([0.01, 0.1, 0.4]).split() == ["0.01", "0.1", "0.4", "inf"]


def test_guidance_that_leads_is_red():
    found = heard(q=q_values(guidance_ratio=1.3))
    assert "the critic leads" in row(found, "ratio").plain
    assert "red" in colours(row(found, "ratio"), "1.3")
    assert "red" not in colours(row(heard(), "ratio"), "0.4")


def test_a_sampler_that_eats_its_budget_is_coloured():
    assert "red" in colours(row(heard(inference_p99_ms=260.0), "sampling"), "p99")
    assert "yellow" in colours(row(heard(inference_p99_ms=130.0), "sampling"), "p99")


def test_a_curve_keeps_its_form_while_time_goes_on():
    samples = [(NOW - 20 + i / 10, float(i % 7)) for i in range(200)]
    before, after = (binned(samples, NOW + shift, 20.0, 40) for shift in (0.0, 0.5))
    np.testing.assert_array_equal(before[1:], after[:-1])
    assert math.isnan(binned([(NOW, NAN)], NOW, 20.0, 4)[-1])
    assert binned([(NOW, NAN), (NOW, 1.0)], NOW, 20.0, 4)[-1] == 1.0
    assert [bar(v, 0.0, 1.0) for v in (0.0, 1.0, NAN)] == ["▁", "█", " "]


def test_counters_are_of_the_last_seconds_too():
    found = heard(limit_hits=100)
    found.status(NOW, status(limit_hits=112))
    assert "limited 112 (+12 in 20 s)" in shown(found)


def test_the_document_is_json_and_says_what_the_picture_says():
    found = heard(beta=0.03, gate=status(State.HOLD, reason="EXPLICIT_HOLD"), state_score=NAN)
    document = json.loads(json.dumps(plain(found.document(NOW)), allow_nan=False))
    assert document["state"] == "RUN" and document["life"] == "live" and not document["waits_for"]
    assert document["beta"] == {
        "in_effect": 0.03, "asked": 0.03, "zone": "beyond", "floor": 0.014, "default": 0.11,
        "suggested": [0.057, 0.11, 0.23],
    }  # fmt: skip
    assert document["topic_age"] == {"joint_states": 0.012, "goal": 0.03}
    assert document["gate"]["reason"] == "EXPLICIT_HOLD" and document["gate"]["remedy"]
    assert document["inference_ms"]["budget"] == 250 and document["state_score"] is None
    nothing = json.dumps(plain(Heard("/qgf").document(NOW)), allow_nan=False)
    assert json.loads(nothing)["life"] == "never"


def test_the_wire_moves_no_cursor():
    assert clean("a\x1b[2Jb\nc") == "a�[2Jb�c"
    evil = "\x1b]0;owned\x07" + "x" * 10_000
    found = heard(
        State.HOLD, reason=evil, detail=evil, warnings=[evil] * 1000, topics=[evil], topic_age=[1.0],
        policy=info(name=evil, robot=evil, backend_note=evil), q=q_values(guards=[evil]),
        gate=status(State.HOLD, reason=evil, warnings=[evil]),
    )  # fmt: skip
    for text in (shown(found), line(found, NOW), json.dumps(plain(found.document(NOW)))):
        assert "\x1b" not in text and "\x07" not in text


def test_whatever_numbers_come_there_is_a_picture():
    rng = np.random.default_rng(5)
    special = [0.0, -0.0, -1.0, 1.0, NAN, math.inf, -math.inf, 1e308, -1e308, 5e-324]

    def any_number():
        return special[rng.integers(len(special))] if rng.random() < 0.8 else float(rng.normal())

    def scrambled(msg):
        for name, value in vars(msg).items():
            if isinstance(value, float):
                setattr(msg, name, any_number())
            elif isinstance(value, list) and value and all(isinstance(v, float) for v in value):
                setattr(msg, name, [any_number() for _ in range(rng.integers(4))])
        return msg

    for _ in range(300):
        state = int(rng.integers(0, 256))
        found = Heard("/qgf")
        found.policy_info(NOW, scrambled(info()))
        found.q_values(NOW - 1, scrambled(q_values()))
        found.q_values(NOW, scrambled(q_values()))
        found.status(NOW, scrambled(status(state)))
        found.asked = {"beta": any_number()}
        lines = panel(found, NOW, int(rng.integers(1, 130)), 24)
        assert all(text.cell_len <= 130 for text in lines)
        assert line(found, NOW)
        json.dumps(plain(found.document(NOW)), allow_nan=False)
