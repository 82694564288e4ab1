"""The report's page, in a real browser: what is clicked is shown, and it is what our code computed."""

import json
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import qgf_make
import torch
from browser import browser, chromium

from qgf_ros.console import plain
from qgf_ros.policy import Beta, Flow, load_policy, write_policy
from qgf_ros.report.policy_page import render_report
from training.analysis.reach import distance, nearest
from training.data.episodes import Episode
from training.models import aggregate
from training.parity import networks
from training.report.packing import pack, short
from training.report.run import examine
from training.report.subject import Subject
from training.report.timeline import CLOUD, timeline
from training.sampling import sample

pytestmark = pytest.mark.xdist_group("browser")  # one browser for all of them
in_a_browser = pytest.mark.skipif(
    not chromium(), reason="no Chromium here; sudo apt-get install chromium"
)
EVIL = "</script><img src=x onerror=alert(1)>"
STEPS = 6  # T
TRIES = 50  # of a finger: on a machine too busy to see it move or leave, it is a long press


def subject(
    folder, outcomes=(True, False), count=16, ticks=24, joints=("a", EVIL), horizon=5, **changes
) -> Subject:
    """A random policy, of critics that mean nothing, and random walks to look at with it."""
    value = qgf_make.velocity_dict(horizon=horizon, execute=horizon)
    value["observations"][0]["names"] = value["actions"][0]["names"] = list(joints)
    value["actions"][0]["limits"] = {j: {"min": -2.0, "max": 2.0, "rate": 80.0} for j in joints}
    own = qgf_make.contract(value)
    flat = changes.pop("flat_critic", False)
    changes = {"flow": Flow(STEPS), "beta": Beta(0.1, 0.05, (0.05, 0.1))} | changes
    told = qgf_make.description(own, **changes)
    tensors = qgf_make.tensors(own, told)
    tensors[told.critic.file] = {
        k: (0.0 if flat else 5.0) * v for k, v in tensors[told.critic.file].items()
    }
    write_policy(folder, told, tensors)
    policy = load_policy(folder)
    random = np.random.default_rng(0)

    def walk(rows, columns):
        return np.cumsum(0.1 * random.standard_normal((rows, columns)), axis=0)

    episodes = [
        Episode(
            f"{EVIL} {i}",
            walk(ticks + 1, policy.obs_dim),
            walk(ticks, len(joints)).clip(-1, 1),
            -0.02 * np.ones(ticks),
            outcomes[i % len(outcomes)] is not None,
            outcomes[i % len(outcomes)],
        )
        for i in range(count)
    ]
    return Subject.of(policy, episodes)


@dataclass
class Made:
    subject: Subject
    document: dict[str, Any]
    file: Any

    @property
    def episodes(self):
        return self.document["timeline"]["episodes"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    some = subject(folder / "policy")
    document = examine(some)
    (folder / "report.html").write_text(render_report(document))
    return Made(some, document, folder / "report.html")


@pytest.fixture(scope="module")
def tab(made):
    with browser() as page:
        page.open(made.file.as_uri(), 700, 400)
        page.value("drawAll()")
        yield page


@pytest.fixture
def page(tab):
    """The open page, looking where it does at first."""
    tab.value("look({ ...worst(), stop: Math.max(usual, 0) })")
    tab.errors.clear()
    yield tab
    assert tab.errors == []


def looked(page):
    """(episode, moment, stop) that the page shows."""
    return tuple(page.value("[looked.episode, looked.moment, looked.stop]"))


def at(made, page):
    """The moment that the page shows, as the document has it."""
    episode, number, _ = looked(page)
    return made.episodes[episode]["moments"][number]


class Shown:
    """What the given panels show, drawn now, in sight or not."""

    def __init__(self, page, *panels):
        tables = [f"{name}-table" for name in panels if name != "timeline"]
        self._rows, self._traces = page.value(
            f"""(() => {{
              {json.dumps(panels)}.forEach(name => panels[name](view()));
              const rows = id => [...$(id).rows].map(r => [...r.cells].map(c => c.innerText));
              const traces = plot => plot.data.filter(t => t.type === "scatter")
                .map(t => [t.name, Array.from(t.x, (x, i) => [x, t.y[i]])]);
              const plots = [...document.querySelectorAll(".moments .plot")].filter(p => p.data);
              return [
                Object.fromEntries({json.dumps(tables)}.map(id => [id, rows(id)])),
                Object.fromEntries(plots.map(p => [p.id, Object.fromEntries(traces(p))])),
              ];
            }})()"""
        )

    def rows(self, table):
        """{first cell: the others} as text, with plain minus signs."""
        minus = str.maketrans("\u2212", "-")
        return {row[0]: [cell.translate(minus) for cell in row[1:]] for row in self._rows[table]}

    def trace(self, plot, name):
        """(points, 2); NaN where the line is broken."""
        return np.array(self._traces[plot][name], float)


# What the document says


def test_episodes_of_both_outcomes_stand_first(made):
    assert [e["outcome"] for e in made.episodes] == ["success"] * 4 + ["failure"] * 4
    reported = {made.subject.episodes[i].name for i in made.subject.report.rows}
    assert {e["name"] for e in made.episodes} <= reported


def test_numbers_are_those_of_the_reference_sampler(made):
    """Sampled anew in float64, by other means than the report's."""
    some, told = made.subject, made.document["timeline"]
    policy, horizon = some.policy, some.policy.horizon
    episode = made.episodes[5]
    moment = episode["moments"][2]
    tick = episode["tick"][moment["at"]]
    source = next(e for e in some.episodes if e.name == episode["name"])
    obs = torch.from_numpy(policy.normalizer.normalize_obs(source.obs[None, tick])).double()
    done = policy.normalizer.normalize_action(
        source.action[None, tick : tick + horizon], source.obs[None, tick]
    )
    velocity, critic = networks(policy, torch.float64)
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(CLOUD, policy.flat_dim, generator=random)[:3].double()

    def drawn(beta, way="qgf"):
        return sample(
            velocity, critic, obs.expand(3, -1), noise, 1 / beta, steps=STEPS, estimator=way,
            times=torch.from_numpy(policy.velocity["time_embedding"]),
        )  # fmt: skip

    chunks = {
        "recorded": torch.from_numpy(done).double().view(1, -1),
        "unguided": drawn(math.inf).action[:1],
        "guided": drawn(told["beta"]).action[:1],
    }
    states = type(some.report.held.pool)(
        obs.float(), chunks["recorded"].float(), torch.tensor([some.episodes.index(source)])
    )
    near = nearest(states, some.report.held.recorded).double()
    for name, chunk in chunks.items():
        q = aggregate(critic(obs, chunk), "min").item()
        assert moment["marks"][name]["q"] == pytest.approx(q, abs=1e-4)
        assert episode[name]["q"][moment["at"]] == pytest.approx(q, abs=1e-4)
        away = distance(chunk, near).item()
        assert moment["marks"][name]["distance"] == pytest.approx(away, abs=1e-3)
    for w, way in enumerate(("qgf", "ood")):
        for s, stop in enumerate(told["stops"]):
            ours = drawn(math.inf if stop["beta"] == "inf" else stop["beta"], way)
            assert moment["paths"]["q"][w][s] == pytest.approx(ours.q.tolist(), abs=1e-3)
            away = distance(ours.action, near.expand(3, -1, -1)).tolist()
            assert moment["paths"]["distance"][w][s] == pytest.approx(away, abs=1e-3)


def test_paths_are_walked_and_pushed_as_said(made, page):
    """Seen from the page: in the plane each step is the flow's plus the push, and the next begins
    where it ended; unguided and guided ends are where panel 4 has them."""
    moment = made.episodes[1]["moments"][3]
    paths = json.dumps(moment["paths"])
    a, asked, push = (
        np.array(page.value(f"unpack({paths}.{name})"), float) for name in ("a", "asked", "push")
    )
    stops = made.document["timeline"]["stops"]
    usual = next(i for i, s in enumerate(stops) if "default" in s["names"])
    guided = moment["marks"]["guided"]
    assert a[0, usual, 0, -1] == pytest.approx([guided["x"], guided["y"]], abs=1e-3)
    assert a[0, 0, 0, -1] == pytest.approx([0, 0], abs=1e-3)
    assert np.isnan(push[:, 0]).all() and np.isnan(asked[0]).all()  # no guidance: nobody is asked
    assert np.isfinite(push[:, 1:]).all() and np.isfinite(asked[1:]).all()
    assert a[0, :, :, 0] == pytest.approx(a[1, :, :, 0], abs=1e-3)  # of the same noise
    # The first step of both ways is the same flow, so what differs is the push.
    flow = a[:, 0, :, 1]
    assert a[:, 1:, :, 1] - push[:, 1:, :, 0] == pytest.approx(
        np.broadcast_to(flow[:, None], a[:, 1:, :, 1].shape), abs=2e-3
    )


def test_a_false_peak_is_marked_where_there_is_one():
    """The same square with a peak off the data, without, and with a rise to the edge."""
    from training.report.landscape import _bump

    x = torch.linspace(-1, 1, 21)
    places = torch.stack(torch.meshgrid(x, x, indexing="xy"), -1)
    away = places.norm(dim=-1)

    def at(height, *centre):
        gap = places - torch.tensor(centre)
        return height * torch.exp(-gap.square().sum(-1) / 0.05)

    peak = _bump(places, at(1, 0, 0) + at(2, 0.6, -0.5), away, 0.4)
    assert peak["peak"] and (peak["x"], peak["y"]) == pytest.approx((0.6, -0.5), abs=1e-5)
    assert peak["q"] == pytest.approx(2, abs=0.01) and peak["distance"] > 0.4
    assert _bump(places, at(1, 0, 0) + at(0.9, 0.6, -0.5), away, 0.4) is None
    rise = _bump(places, places[..., 0], away, 0.4)
    assert not rise["peak"] and rise["x"] == 1
    assert _bump(places, places[..., 0], away, math.nan) is None


def test_packed_numbers_are_read_again(page):
    x = torch.randn(3, 4, 2)
    x[1, 2, 0] = math.nan
    for bits, off in ((8, 1 / 508), (16, 1 / 131068)):
        there = np.array(page.value(f"unpack({json.dumps(pack(x, bits))})"), float)
        known = x.isfinite().numpy()
        assert (np.isfinite(there) == known).all()
        worst = np.abs(there - x.double().numpy())[known].max()
        assert worst <= off * (x[known].max() - x[known].min()).item() * 1.001
    assert short(torch.tensor([1 / 3, math.inf])) == [0.33333, None]


def test_a_critic_without_gradient_leads_nowhere(tmp_path):
    found = timeline(subject(tmp_path / "policy", flat_critic=True, count=4))
    for episode in found["episodes"]:
        for moment in episode["moments"]:
            assert [axis["to"] for axis in moment["axes"]] == ["spread", "spread"]
            assert moment["bump"] is None and moment["q"]["low"] == moment["q"]["high"] == 0


def test_a_chunk_of_one_number_is_no_plane(tmp_path):
    """Episodes of two ticks, seen along the one direction that there is."""
    found = timeline(subject(tmp_path / "policy", joints=("a",), horizon=1, ticks=2, count=4))
    for episode in found["episodes"]:
        for moment in episode["moments"]:
            assert [axis["to"] for axis in moment["axes"]][1] == "none"
            assert moment["marks"]["recorded"]["off"] == moment["marks"]["recorded"]["y"] == 0


# What the page does with it


@in_a_browser
def test_it_is_one_file_of_less_than_6_mb(made):
    text = made.file.read_text()
    assert len(text.encode()) < 6e6
    assert len(json.dumps(made.document["timeline"], separators=(",", ":"))) < 9e5
    head = text[: text.index("<body>")]
    assert "default-src 'none'" in head and '<link rel="icon" href="data:,">' in head
    assert not re.search(r"<(script|img|iframe)[^>]+src=|<link[^>]+stylesheet", text)


@in_a_browser
def test_a_clicked_moment_is_shown_in_panels_4_and_5(made, page):
    seen = []
    for number in (1, 5):
        episode = looked(page)[0]
        offset = page.value(
            f"(e => toPixels(e, [secondsAt(episodes[{episode}], episodes[{episode}].moments[{number}].at), 0])[0]"
            " - e.clientWidth / 2)($('timeline-plot'))"
        )
        page.click("#timeline-plot", dx=offset + 2)
        assert looked(page)[:2] == (episode, number)
        moment = at(made, page)
        shown = Shown(page, "landscape", "paths")
        table = shown.rows("landscape-table")
        for name, mark in moment["marks"].items():
            assert float(table[name][0]) == pytest.approx(mark["q"], abs=6e-4)
            assert float(table[name][1]) == pytest.approx(mark["distance"], abs=6e-3)
            place = shown.trace("landscape-plot", name)[0]
            assert place == pytest.approx([mark["x"], mark["y"]])
        ends = shown.rows("paths-table")
        paths, stop = moment["paths"], looked(page)[2]
        for way, w, s in (("unguided", 0, 0), ("QGF", 0, stop), ("OOD", 1, stop)):
            assert [float(x) for x in ends[way][0].split()] == pytest.approx(
                paths["q"][w][s], abs=6e-4
            )
        seen.append((table, ends, str(shown.trace("paths-qgf", "a_t"))))
    assert seen[0] != seen[1]


@in_a_browser
def test_moments_and_episodes_by_key_and_by_hand(made, page):
    page.value("look({ moment: 3 })")
    episode, number, _ = looked(page)
    page.key("#timeline-plot", "ArrowRight")
    assert looked(page)[:2] == (episode, number + 1)
    page.key("#timeline-plot", "ArrowLeft", number + 2)
    assert looked(page)[1] == 0  # and no further
    page.key("#moment", "End")
    last = len(made.episodes[episode]["moments"]) - 1
    assert looked(page)[1] == last
    page.value(
        "$('episode').value = 6, $('episode').dispatchEvent(new Event('change', {bubbles: true}))"
    )
    assert looked(page)[0] == 6
    assert made.episodes[6]["name"] in page.value("$('timeline-said').innerText")
    assert "failed" in page.value("$('timeline-said').innerText")


@in_a_browser
def test_the_beta_slider_changes_the_paths(made, page):
    page.key("#beta", "Home")
    assert looked(page)[2] == 0
    free = Shown(page, "paths")
    of_qgf, of_ood = (free.trace(f"paths-{way}", "a_t") for way in ("qgf", "ood"))
    assert np.array_equal(of_qgf, of_ood, equal_nan=True)
    assert list(free.rows("paths-table")) == ["", "unguided"]
    ends = []
    for stop in range(1, len(made.document["timeline"]["stops"])):
        page.key("#beta", "ArrowRight")
        assert looked(page)[2] == stop
        wanted = at(made, page)["paths"]["q"][0][stop]
        now = Shown(page, "paths")
        said = now.rows("paths-table")["QGF"][0].split()
        assert [float(x) for x in said] == pytest.approx(wanted, abs=6e-4)
        ends.append(now.trace("paths-qgf", "the action").tolist())
    assert len({json.dumps(e) for e in ends}) == len(ends)
    named = page.value("[...document.querySelectorAll('[data-stop]')].map(b => b.innerText)")
    assert named[0] == "no guidance" and "floor" in named[-1]
    page.click("[data-stop='0']")
    assert looked(page)[2] == 0


@in_a_browser
def test_names_are_text(made, page):
    assert page.value("document.querySelectorAll('img').length") == 0
    assert page.value("$('episode').options[2].textContent").startswith(f"success: {EVIL} ")
    Shown(page, "landscape")
    assert f"arm.{EVIL}" in page.value("$('landscape-axes').innerText")


@in_a_browser
@pytest.mark.parametrize("width, dark", [(390, True), (700, False)])
def test_fits_the_window_and_the_reader(page, width, dark):
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    page.send("Emulation.setEmulatedMedia", features=[scheme])
    page.resize(width, 400)
    page.wait_for(f"innerWidth === {width}")
    page.value("drawAll()")
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.value(
        "[...document.querySelectorAll('.plot')].filter(p => p.offsetParent)"
        ".every(p => p.clientWidth === p.querySelector('.main-svg').clientWidth)"
    )
    paper = page.value("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") is not dark


@in_a_browser
def test_a_finger_picks_a_moment_or_scrolls(page):
    page.resize(390, 400)
    page.wait_for("innerWidth === 390")
    page.value("look({ episode: 0, moment: 0 })")
    for _ in range(TRIES):
        page.touch("#timeline-plot")
        if page.comes_true("looked.moment > 0"):
            break
    assert looked(page)[1] > 0
    before, number = page.value("scrollY"), looked(page)[1]
    for _ in range(TRIES):
        page.touch("#landscape-plot", dy=-100)
        if page.comes_true(f"Math.abs(scrollY - {before}) > 50"):
            break
    assert looked(page)[1] == number
    page.resize(700, 400)
    page.wait_for("innerWidth === 700")


@in_a_browser
def test_prints_the_moment_that_is_looked_at(page):
    page.value("look({ episode: 2, moment: 4 })")
    page.value(
        "addEventListener('beforeprint', () => { window.printed = [$('landscape-plot').layout.font.color,"
        " $('paths-ood').layout.width, looked.episode, looked.moment]; })"
    )
    assert page.send("Page.printToPDF")["data"].startswith("JVBER")
    ink, width, *shown = page.value("printed")
    assert ink == "#000" and width <= 680 and shown == [2, 4]
    assert not page.value("document.documentElement.classList.contains('paper')")


def test_nothing_left_the_page(made, page):
    """After all that was clicked above, one request was made, for the file itself."""
    assert page.requests == [made.file.as_uri()]


@in_a_browser
def test_what_is_lacking_is_said_and_the_page_opens(made, tab, tmp_path):
    """One episode, whose outcome nobody recorded, and a policy that is not guided by default."""
    some = subject(tmp_path / "policy", count=1, outcomes=(None,), beta=Beta(math.inf, 1.0))
    file = tmp_path / "report.html"
    file.write_text(render_report(made.document | {"timeline": plain(timeline(some))}))
    tab.errors.clear()
    tab.open(file.as_uri(), 700, 400)
    now = Shown(tab, "timeline", "landscape", "paths")
    assert tab.errors == []
    assert "no other episode" in tab.value("$('landscape-said').innerText")
    assert "nobody recorded" in tab.value("$('timeline-said').innerText")
    assert list(now.rows("landscape-table")) == ["chunk", "recorded", "unguided"]
    assert now.rows("paths-table")["unguided"][-1] == "–"
