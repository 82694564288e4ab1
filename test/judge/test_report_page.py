"""The report's page, in a real browser: what is clicked is shown, and it is what our code computed."""

import json
import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from browser import browser, chromium
from qgf_make import SCALE
from qgf_report import EVIL, subject

from qgf_ros.console import plain
from qgf_ros.policy.description import Beta
from training.judge.pages.report_page import render_report
from training.judge.panels.timeline.figures import figures as timeline
from training.judge.panels.timeline.packing import pack, short
from training.judge.report import examine
from training.judge.subject import Subject

pytestmark = [
    pytest.mark.xdist_group("browser"),  # one browser for all of them
    pytest.mark.skipif(not chromium(), reason="no Chromium here; sudo apt-get install chromium"),
]
TRIES = 50  # of a finger: on a machine too busy to see it move or leave, it is a long press


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


def test_it_is_one_file_of_less_than_6_mb(made):
    text = made.file.read_text()
    assert len(text.encode()) < 6e6
    assert len(json.dumps(made.document["timeline"], separators=(",", ":"))) < 9e5
    head = text[: text.index("<body>")]
    assert "default-src 'none'" in head and '<link rel="icon" href="data:,">' in head
    assert not re.search(r"<(script|img|iframe)[^>]+src=|<link[^>]+stylesheet", text)


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


def test_moments_and_episodes_by_key_and_by_hand(made, page):
    page.value("look({ moment: 0 })")
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


def test_the_beta_slider_changes_the_paths(made, page):
    page.key("#beta", "Home")
    assert looked(page)[2] == 0
    free = Shown(page, "paths")
    of_qgf, of_ood = (free.trace(f"paths-{way}", "a_t") for way in ("qgf", "ood"))
    assert np.array_equal(of_qgf, of_ood, equal_nan=True)
    assert list(free.rows("paths-table")) == ["", "unguided"]
    ends, last = [], len(made.document["timeline"]["stops"]) - 1
    some = {1, last // 2, last}  # to draw one takes seconds
    every = range(1, last + 1) if SCALE > 1 else sorted(some)
    for before, stop in pairwise((0, *every)):
        page.key("#beta", "ArrowRight", stop - before)
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


def test_names_are_text(made, page):
    assert page.value("document.querySelectorAll('img').length") == 0
    assert page.value("$('episode').options[2].textContent").startswith(f"success: {EVIL} ")
    Shown(page, "landscape")
    assert f"arm.{EVIL}" in page.value("$('landscape-axes').innerText")


@pytest.mark.parametrize("width, dark", [(700, False), (390, True)])
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


def test_the_sweep_is_along_beta_or_along_the_guidance_ratio(page, made):
    rows = made.document["sweep"]["groups"]["report"]["rows"][1:]

    def hollow(axis):
        return page.value(f"document.getElementById('sweep-gain').data[3].{axis}")

    assert hollow("x") == pytest.approx([-math.log10(r["beta"]) for r in rows])
    assert hollow("y") == pytest.approx([r["gain"]["mean"] for r in rows])
    page.click("[name=along][value=ratio]")
    title = "document.getElementById('sweep-gain').layout.xaxis.title.text"
    page.wait_for(f"{title} === 'guidance ratio'")
    assert hollow("x") == pytest.approx([math.log10(r["ratio"]["mean"]) for r in rows])
    page.click("[name=along][value=beta]")
    page.wait_for(f"{title} !== 'guidance ratio'")


def test_nothing_left_the_page(made, page):
    """After all that was clicked above, one request was made, for the file itself."""
    assert page.requests == [made.file.as_uri()]


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
