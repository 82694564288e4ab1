"""The report's verdict, its sweep of beta and its estimators, on critics whose worth is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from qgf_nets import policy_of

from qgf_ros.policy.description import Beta
from training.judge.critic_metrics import preference
from training.judge.pages.report_page import render_report
from training.judge.panels.estimators.figures import figures as estimators
from training.judge.panels.fitness.evidence import Evidence
from training.judge.panels.fitness.figures import figures as fitness
from training.judge.panels.sweep.figures import TOLERATED
from training.judge.panels.sweep.figures import figures as sweep
from training.judge.panels.timeline.figures import figures as timeline
from training.judge.report import examine
from training.judge.subject import FOREIGN, OWN, TRAINED, Group, Held, Subject
from training.pipeline.chunks import ChunkTable
from training.pipeline.episodes import Episode, EpisodeArrays

OBS, HORIZON, ACTION, TICKS = 5, 3, 2, 12
POLICY = policy_of(OBS, HORIZON, ACTION)
BETA = Beta(0.5, 0.1, (0.25, 0.5, 1.0))


def episodes(count=60, seed=0, ticks=TICKS, known=True):
    """What is commanded in the first joint is earned; those that earn most succeed."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        action = rng.uniform(-0.6, 0.6, (ticks, ACTION)) + [rng.choice([-0.4, 0.4]), 0]
        obs = rng.normal(size=(ticks + 1, OBS))
        won = bool(action[:, 0].sum() > 0) if known else None
        out.append(Episode(f"<b>{i}</b>", obs, action, action[:, 0], known, won))
    return out


def linear(joint, sign=1.0, members=2):
    """Q is what a chunk commands in one joint; the members are nearly of one mind."""

    def critic(obs, action):
        q = sign * action.view(len(action), HORIZON, ACTION)[..., joint].sum(-1)
        return torch.stack([q * (1 + 0.01 * i) for i in range(members)])

    return critic


def subject(critic, data=None, **description):
    policy = replace(POLICY, description=replace(POLICY.description, beta=BETA, **description))
    made = Subject.of(policy, episodes() if data is None else data)
    return replace(made, model=replace(made.model, critic=critic), why=OWN)


def check(document, name):
    return next(c for c in document["checks"] if c["name"] == name)


RIGHT = linear(0)
MOMENTS = np.divmod(np.arange(4000), 20)  # episode and tick


def test_preference_is_the_correlation_that_the_state_does_not_explain():
    rng = np.random.default_rng(0)
    state, advantage, luck = rng.normal(size=(3, 4000))
    to_go = 5 * state + 0.5 * advantage + luck
    # What Q says of an action depends on the state here, which must not count.
    found = preference(advantage + state, to_go, state[:, None], *MOMENTS)
    assert found["slope"]["mean"] == pytest.approx(0.5, abs=0.05)
    assert found["correlation"]["mean"] == pytest.approx(0.5 / math.sqrt(1.25), abs=0.03)
    assert found["slope"]["low"] < 0.5 < found["slope"]["high"]
    assert found["within"]["low"] < 0.5 < found["within"]["high"]
    assert [b["q"] for b in found["bins"]] == sorted(b["q"] for b in found["bins"])


def test_a_critic_that_knows_one_states_value_and_no_action_has_no_preference():
    rng = np.random.default_rng(1)
    state, advantage, luck = rng.normal(size=(3, 4000))
    found = preference(advantage, state + luck, state[:, None], *MOMENTS)
    assert found["correlation"]["low"] < 0 < found["correlation"]["high"]


def test_what_lasts_for_an_episode_is_taken_out_of_the_slope_within():
    rng = np.random.default_rng(2)
    episode, _ = MOMENTS
    kind, (moment, luck) = rng.normal(size=200)[episode], rng.normal(size=(2, 4000))
    found = preference(kind + moment, 2 * kind + 0.2 * moment + luck, np.empty((4000, 0)), *MOMENTS)
    assert found["slope"]["mean"] == pytest.approx(1.1, abs=0.1)
    assert found["within"]["mean"] == pytest.approx(0.2, abs=0.05)


def test_a_critic_that_is_right_is_fit():
    found = fitness(subject(RIGHT))
    assert found["verdict"] == "fit", found["reasons"]
    assert found["todo"] == []
    assert check(found, "preference")["value"]["low"] > 0.3
    assert check(found, "separation")["value"]["low"] > 0.9


@pytest.mark.parametrize(
    ("critic", "name"),
    [
        (linear(1), "preference"),  # prefers what earns nothing
        (linear(0, -1.0), "preference"),  # prefers what costs
        (lambda s, a: torch.stack([s[:, 0] + 0 * a.sum(-1)] * 2), "gradient"),  # sees no action
        (lambda s, a: RIGHT(s, a) * math.nan, "gradient"),
    ],
)
def test_a_critic_that_leads_nowhere_or_astray_is_unfit(critic, name):
    found = fitness(subject(critic))
    assert found["verdict"] == "unfit"
    assert check(found, name)["level"] == "bad"
    assert found["reasons"] and found["todo"]


@pytest.mark.parametrize(("noise", "verdict"), [(0.5, "fit"), (2.0, "doubtful"), (8.0, "unfit")])
def test_a_preference_that_is_mostly_noise_is_unfit_however_well_episodes_are_told_apart(
    noise, verdict
):
    """A critic that also prefers what earns nothing."""
    found = fitness(subject(lambda s, a: RIGHT(s, a) + noise * linear(1)(s, a), episodes(300)))
    assert check(found, "separation")["level"] == "ok"
    assert found["verdict"] == verdict


def test_the_slope_within_is_whole_though_an_action_also_counts_for_the_ticks_before_it():
    rng = np.random.default_rng(3)
    earned = rng.normal(size=(200, 20))
    to_go = earned[:, ::-1].cumsum(1)[:, ::-1]
    found = preference(earned.ravel(), to_go.ravel(), np.empty((4000, 0)), *MOMENTS)
    assert found["within"]["mean"] == pytest.approx(1, abs=0.15)
    alone = preference(
        earned.ravel(), to_go.ravel(), np.empty((4000, 0)), np.arange(4000), MOMENTS[1]
    )
    assert np.isnan(alone["within"]["mean"])


def test_a_habit_in_the_episodes_that_went_well_is_no_proof():
    """The second joint tells how lucky the episode is, which no action changes."""
    luck = [
        replace(e, action=e.action[:, ::-1], reward=np.full(TICKS, 0.4 if e.success else -0.4))
        for e in episodes(200)
    ]
    found = fitness(subject(linear(1), luck))
    assert check(found, "preference")["value"]["low"] > 0.5
    assert check(found, "preference")["level"] == "warn" and found["verdict"] == "doubtful"


def test_a_reward_of_the_wrong_sign_is_seen_by_the_outcomes():
    data = [replace(e, reward=-e.reward) for e in episodes()]
    found = fitness(subject(linear(0, -1.0), data))
    assert check(found, "preference")["level"] == "ok"
    assert check(found, "separation")["level"] == "bad"
    assert found["verdict"] == "unfit" and "sign" in " ".join(found["todo"])


@pytest.mark.parametrize(
    ("data", "informative", "says"),
    [
        ([e for e in episodes(80) if e.success], True, "No failure"),
        (episodes(known=False), True, "not known"),
        (episodes(), False, "no difference"),
    ],
)
def test_without_evidence_no_critic_is_fit(data, informative, says):
    returns = replace(POLICY.description.returns, informative=informative)
    found = fitness(subject(RIGHT, data, returns=returns))
    assert found["verdict"] == "unfit"
    assert says in " ".join(found["reasons"])


def test_what_may_be_a_coin_does_not_tell_episodes_apart():
    found = fitness(subject(lambda s, a: 0.05 * RIGHT(s, a) + 0.3 * s[:, 0]))
    separation = check(found, "separation")
    assert separation["value"]["low"] < 0.5 < separation["value"]["mean"]
    assert separation["level"] == "warn"


@pytest.mark.parametrize("why", [TRAINED, FOREIGN])
def test_episodes_that_may_have_been_trained_on_bear_nothing_out(why):
    found = fitness(replace(subject(RIGHT), why=why))
    assert found["verdict"] == "doubtful" and len(found["reasons"]) == 1
    assert check(found, "data")["level"] == "warn"
    one_kind = [e for e in episodes(80) if e.success]
    assert fitness(replace(subject(RIGHT, one_kind), why=why))["verdict"] == "unfit"


def test_each_thing_that_lacks_has_its_own_sentence():
    nan = fitness(subject(lambda s, a: RIGHT(s, a) * math.nan))
    assert check(nan, "data")["level"] == "ok"  # it is not the data's fault
    assert "not a finite number" in check(nan, "preference")["says"]
    one = fitness(subject(RIGHT, episodes(1)))  # and no other to compare its states with
    assert "usual" in check(one, "preference")["says"]
    assert check(one, "calibration")["level"] != "unknown"  # which asks for no comparison
    unlabelled = fitness(subject(RIGHT, episodes(known=False)))
    assert "What followed is not known" in check(unlabelled, "data")["says"]


def test_of_other_data_every_episode_is_looked_at():
    data = [e for e in episodes(80) if e.success]
    data += [e for e in episodes(80) if not e.success][:2]  # too few to be split
    made = Subject.of(POLICY, data)
    assert sorted(made.select.rows + made.report.rows) == list(range(len(data)))


def test_few_episodes_leave_a_doubt():
    found = fitness(subject(RIGHT, episodes(14)))
    assert found["verdict"] == "doubtful"
    assert check(found, "data")["level"] == "warn"


def test_what_a_long_cut_recording_earned_is_evidence():
    """A share of the return of at most 5 % lies beyond its end."""
    returns = replace(POLICY.description.returns, discount=0.5)
    data = episodes(40)
    data = [replace(e, terminal=e.success is True, success=e.success or None) for e in data]
    found = fitness(subject(RIGHT, data, returns=returns))
    assert found["held_out"]["did_not"] > 5
    assert check(found, "preference")["level"] == "ok"


def parts(episode, at=7):
    """What recording makes of an episode with a gap: the first part has no end."""
    first = replace(
        episode,
        name=f"{episode.name}.0",
        obs=episode.obs[: at + 1],
        action=episode.action[:at],
        reward=episode.reward[:at],
        terminal=False,
        success=None,
        origin=episode.name,
    )
    rest = {k: getattr(episode, k)[at:] for k in ("obs", "action", "reward")}
    return first, replace(episode, name=f"{episode.name}.{at}", origin=episode.name, **rest)


def test_the_first_part_of_a_success_is_no_failure():
    returns = replace(POLICY.description.returns, discount=0.5)
    data = [part for e in episodes(80) if e.success for part in parts(e)]
    found = fitness(subject(RIGHT, data, returns=returns))
    assert found["held_out"]["did_not"] == 0
    assert found["verdict"] == "unfit" and "No failure" in " ".join(found["reasons"])


def test_recordings_that_nobody_labelled_a_failure_leave_a_doubt():
    returns = replace(POLICY.description.returns, discount=0.5)
    data = [e if e.success else replace(e, terminal=False, success=None) for e in episodes(80)]
    found = fitness(subject(RIGHT, data, returns=returns))
    assert found["held_out"]["failed"] == 0 < found["held_out"]["did_not"]
    assert check(found, "data")["level"] == "warn" and found["verdict"] == "doubtful"
    assert "labelled" in " ".join(found["reasons"])


def test_the_sweep_starts_unguided_and_has_the_policys_betas():
    made = subject(RIGHT)
    found = sweep(made, {"verdict": "fit"})
    assert found["betas"][0] == math.inf
    assert found["betas"] == sorted(found["betas"], reverse=True)
    assert {BETA.min, *BETA.suggested} <= set(found["betas"])
    for group in found["groups"].values():
        rows = group["rows"]
        assert [r["beta"] for r in rows] == found["betas"]
        assert rows[0]["gain"]["mean"] == rows[0]["ratio"]["mean"] == 0
        gain = [r["gain"]["mean"] for r in rows]
        assert gain == sorted(gain)  # of a linear critic, up to the bounds of actions
        assert all(0 <= r["beyond"]["mean"] <= 1 and r["lost"] == 0 for r in rows)
    assert found["stable"]["beta"] == 0  # what is linear is not curved
    assert found["advice"]["first"].startswith("Try 1,")


def test_roughness_is_not_known_of_chunks_of_three_and_never_a_fault():
    found = sweep(subject(RIGHT), {"verdict": "fit"})
    rows = found["groups"]["report"]["rows"]
    assert all(math.isnan(row["jerk"]["mean"]) for row in rows)
    far = {r["beta"] for r in rows if r["beyond"]["mean"] > rows[0]["beyond"]["mean"] + TOLERATED}
    warned = any("gets rough" in line for line in found["advice"]["then"])
    assert warned == bool(far & set(BETA.suggested))  # for the distance alone


def test_a_beta_at_which_samples_are_lost_is_not_advised():
    made = subject(lambda s, a: RIGHT(s, a).masked_fill(a.abs().amax(-1) > 0.9, math.nan))
    found = sweep(made, {"verdict": "fit"})
    rows = {r["beta"]: r["lost"] for r in found["groups"]["report"]["rows"]}
    assert rows[max(BETA.suggested)] > 0
    assert found["advice"]["first"].startswith("Stay at beta inf")
    assert f"{rows[0.25]:.0%} at 0.25" in " ".join(found["advice"]["then"])


@pytest.mark.parametrize("verdict", ["doubtful", "unfit"])
def test_advice_follows_the_verdict(verdict):
    said = sweep(subject(RIGHT), {"verdict": verdict})["advice"]["first"]
    assert ("Stay at beta inf" in said) == (verdict == "unfit")
    assert ("trial --beta inf 1." in said) == (verdict == "doubtful")


def test_every_estimator_has_its_curve_its_q_and_its_time():
    found = estimators(subject(RIGHT))
    assert set(found["cosine"]) == set(found["guided"]) <= set(found["ms"])
    assert found["overall"]["qgf"]["mean"] == pytest.approx(1)  # of a linear critic
    assert all(ms > 0 for ms in found["ms"].values())
    assert [p["candidates"] for p in found["best_of_n"]] == [1, 4, 16]


def test_an_episode_each_is_enough_to_compare():
    made = subject(RIGHT, episodes(3, ticks=60))
    recorded = made.select.held.recorded
    alone = recorded[recorded.episode == 0]

    def group(name, number):
        pool = recorded[recorded.episode == number]
        return Group(name, (number,), Held(pool, alone, name, ""))

    made = replace(made, train=(0,), select=group("select", 1), report=group("report", 2))
    assert "absent" not in sweep(made, {"verdict": "fit"})
    assert "absent" not in estimators(made)
    assert check(fitness(made), "rise")["level"] != "unknown"
    made = replace(made, report=group("report", 0))  # what it would be compared with is itself
    assert "single episode" in sweep(made, {"verdict": "fit"})["absent"]


def test_what_is_no_number_is_not_known():
    found = fitness(subject(lambda s, a: RIGHT(s, a) * math.nan))
    assert [check(found, name)["level"] for name in ("rise", "off_data")] == ["unknown"] * 2


def test_recordings_stay_where_they_are_and_only_what_is_shown_is_cut(monkeypatch):
    """Data may be larger than memory."""
    data, cut, tables = EpisodeArrays.of(episodes(6, ticks=500)), [], []
    real = ChunkTable.cut

    def spy(table, rows, *args, **options):
        cut.append(len(rows))
        tables.append(table)
        return real(table, rows, *args, **options)

    monkeypatch.setattr(ChunkTable, "cut", spy)
    made = subject(RIGHT, data)
    assert Evidence.of(made).episodes.obs is data.obs
    assert all(table.episodes.obs is data.obs for table in tables)
    cut.clear()
    monkeypatch.setattr("training.judge.panels.timeline.figures._moments", lambda *_: [{}] * 99)
    shown = timeline(made)["episodes"]
    assert cut == [len(e["tick"]) for e in shown] and max(cut) <= 200


@pytest.fixture
def few(monkeypatch):
    """A page of few states and moments: what its figures are, the tests above look at."""
    panels = "training.judge.panels"
    monkeypatch.setattr(f"{panels}.estimators.figures.REPEATS", 1)
    monkeypatch.setattr(f"{panels}.estimators.figures.STATES", 16)
    monkeypatch.setattr(f"{panels}.sweep.figures.STATES", 32)
    monkeypatch.setattr(f"{panels}.sweep.figures.CURVED", 8)
    monkeypatch.setattr(f"{panels}.timeline.figures.MOMENTS", 8)


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(lambda: subject(RIGHT), id="fit"),
        pytest.param(lambda: subject(linear(0, members=1)), id="one member"),
        pytest.param(lambda: subject(RIGHT, episodes(1)), id="one episode"),
        pytest.param(lambda: subject(RIGHT, episodes(known=False)), id="no outcome"),
        pytest.param(lambda: subject(lambda s, a: RIGHT(s, a) * math.nan), id="NaN"),
        pytest.param(
            lambda: subject(lambda s, a: RIGHT(s, a) * 0 + 1, returns=replace(POLICY.description.returns, informative=False)),
            id="no gradient",
        ),
    ],
)  # fmt: skip
def test_whatever_the_data_holds_there_is_a_page(made, few):
    document = examine(made())
    page = render_report(document)
    words = {"fit": "Fit to guide", "doubtful": "Doubtful", "unfit": "Unfit to guide"}
    assert f'<p class="large">{words[document["fitness"]["verdict"]]}</p>' in page
    assert "<b>0</b>" not in page.split("<script")[0]  # names are somebody else's text


def test_a_policy_that_is_not_guided_by_default_has_a_page(few):
    made = subject(RIGHT)
    description = replace(made.policy.description, beta=Beta(math.inf, 1.0))
    document = examine(replace(made, policy=replace(made.policy, description=description)))
    assert document["sweep"]["advice"]["first"].startswith("Stay at beta inf")
    assert "default" in render_report(document)
