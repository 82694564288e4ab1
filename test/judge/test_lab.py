"""The lab's page, in a real browser: it agrees with our code, its knobs work, nothing leaves it."""

import json
import math
import re

import pytest
import torch
from browser import browser, chromium

from training.lab import lab, testbed
from training.lab.verbs import Lab
from training.sampling import sample

pytestmark = [
    pytest.mark.xdist_group("browser"),  # one browser for all of them
    pytest.mark.skipif(not chromium(), reason="no Chromium here; sudo apt-get install chromium"),
]
IDLE = "document.documentElement.dataset.busy === 'false'"
TRIES = 50  # of a finger: on a machine too busy to see it move or leave, it is a long press


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    out = tmp_path_factory.mktemp("lab") / "lab.html"
    document = Lab(out=out).run()
    assert document["bytes"] == out.stat().st_size
    return out


@pytest.fixture(scope="module")
def tab(file):
    with browser() as page:
        page.open(file.as_uri(), 1000, 500)
        page.value("drawAll()")  # every figure has its height: what is clicked stays where it is
        yield page


@pytest.fixture
def page(tab):
    """The open page with its knobs where they stand at the start."""
    tab.value(
        "turn({ flow: 'line', index: 6, T: 10, critic: 'narrow', line: [-0.5], plane: [1.5, 1.5], k: 5 })"
    )
    tab.errors.clear()
    yield tab
    assert tab.errors == []


def table(page, name):
    """The cells of a table's rows, as text."""
    return page.value(f"[...$('{name}').rows].map(r => [...r.cells].map(c => c.innerText))")


def knob(page, name):
    return page.value(f"knobs.{name}")


def resize(page, width):
    """Another window, and every figure as wide as its place in it; one drawing takes seconds."""
    if page.value("innerWidth") != width:
        page.resize(width, 500)
        page.wait_for(f"innerWidth === {width}")
        page.value("drawAll()")
    page.wait_for(
        "[...document.querySelectorAll('.plot')].filter(p => p.offsetParent)"
        ".every(p => p.clientWidth === p.querySelector('.main-svg').clientWidth)"
    )


def draw(page, panel):
    """Draws it now, in sight or not."""
    page.value(f"panels.{panel}(view())")


def traces(page, plot):
    """{name: [x, y]} of a figure as it is drawn now."""
    draw(page, plot.split("-")[0].replace("path", "paths"))
    return page.value(
        f"Object.fromEntries($('{plot}').data.map(t => [t.name, [Array.from(t.x), Array.from(t.y)]]))"
    )


def test_it_is_one_file_of_less_than_6_mb(file):
    text = file.read_text()
    assert file.stat().st_size < 6e6
    head = text[: text.index("<body>")]
    assert "default-src 'none'" in head and '<link rel="icon" href="data:,">' in head
    assert not re.search(r"<(script|img|iframe)[^>]+src=|<link[^>]+stylesheet", text)


def test_page_and_product_agree_on_every_number(page, file):
    """The page compares all that our code wrote down when it made the file; two ways of one formula."""
    page.wait_for(IDLE, patience=300.0)
    rows = table(page, "agree-table")[1:]
    assert len(rows) == 8 and {row[-1] for row in rows} == {"agree"}
    told = json.loads(re.search(r'id="document">(.*?)</script>', file.read_text())[1])
    line = told["flows"]["line"]
    assert int(rows[0][1]) == 2 * 3 * len(told["betas"]) * len(line["starts"]) > 4000
    assert all(float(row[2]) < float(row[3]) for row in rows)


def test_a_difference_would_be_told(page):
    worst = "{ count: 1, worst: %s }"
    page.value(
        f"tellAgreement([['line', {{ ends: {worst % '2e-6'}, gradients: {worst % 'NaN'} }}]])"
    )
    assert [row[-1] for row in table(page, "agree-table")[1:]] == ["differ", "differ"]
    page.value("tellAgreement(agreement)")


@pytest.mark.parametrize("flow, name", [(lab.LINE, "line"), (lab.PLANE, "plane")])
@pytest.mark.parametrize("way", lab.WAYS)
def test_paths_agree_where_the_page_was_told_nothing(page, flow, name, way):
    """Another T and another critic than in the file; one tolerance, 1e-6."""
    some = flow.critics["wide"]
    critic = testbed.BumpCritic(10.5, 0.65, some.optimum, some.centre)
    noise, T, w = flow.starts[::7], 7, 0.8
    times = torch.arange(T, dtype=torch.float64) / T
    ours = sample(
        lambda obs, a, time: testbed.velocity(obs, a, time, flow.means),
        critic, noise[:, :0], noise, w, steps=T, estimator=way, bound=math.inf, times=times,
    ).action  # fmt: skip
    theirs = page.value(
        f"{json.dumps(noise.tolist())}.map(a => sample(worldOf('{name}', {{ height: 10.5, width: 0.65 }}, {T}), a, {w}, '{way}').end)"
    )
    assert (torch.tensor(theirs, dtype=torch.float64) - ours).abs().max() < 1e-6


def test_the_table_of_method_md_in_the_page(page):
    """T = 50, w = 2: shares near the optimum and fooled, of qgf, with the guard, with the cap."""
    page.value("turn({ T: 50, index: 8, critic: 'wide' })")
    draw(page, "guard")
    near, fooled = ([float(row[i]) for row in table(page, "guard-table")[1:]] for i in (1, 3))
    assert near == pytest.approx([0.00, 0.99, 0.39], abs=0.02)
    assert fooled == pytest.approx([0.97, 0.00, 0.02], abs=0.02)


def test_beta_slider_goes_from_no_guidance_to_hard(page):
    page.key("[data-knob=index]", "Home")
    assert knob(page, "index") == 0
    page.wait_for("document.querySelector('[data-shows=index]').innerText.includes('no guidance')")
    draw(page, "paths")
    assert len({row[1] for row in table(page, "path-table")[1:]}) == 1  # all ways are one
    page.key("[data-knob=index]", "ArrowRight", 2)
    draw(page, "paths")
    ways = {row[0]: row[1:] for row in table(page, "path-table")[1:]}
    assert ways["none"][0] != ways["QGF"][0] != ways["OOD"][0]
    assert all(page_says == ours for page_says, ours, *_ in ways.values())


def test_the_bump_can_be_dragged(page):
    page.centre("#critic-profile")
    before = traces(page, "critic-profile")["Q"][1]
    page.drag("#critic-profile-top", 0, -40)
    assert knob(page, "height") > 10 and knob(page, "width") == 0.5
    page.drag("#critic-profile-side", 30, 0)
    assert 0.5 < knob(page, "width") <= 1.2
    assert max(traces(page, "critic-profile")["Q"][1]) > max(before) + 1
    assert float(page.value("document.querySelector('[data-knob=height]').value")) == knob(
        page, "height"
    )
    assert "qgf_ros" not in traces(page, "beta-near")  # our code was not asked about this critic
    page.value(
        "[...document.querySelectorAll('button')].find(b => b.innerText === 'narrow bump').id = 'narrow'"
    )
    page.click("#narrow")
    assert (knob(page, "height"), knob(page, "width")) == (9, 0.5)
    assert "qgf_ros" in traces(page, "beta-near")


def test_a_click_into_a_figure_picks_the_start(page):
    draw(page, "paths")
    page.click("#path-qgf", dy=-60)
    start = knob(page, "line")[0]
    assert start > 0.5
    assert traces(page, "path-bptt")["a_t, BPTT"][1][0] == start  # in all four
    assert float(page.value("document.querySelector('[data-knob=x]').value")) == start


def test_the_plane(page):
    assert page.value("$('critic-map').offsetParent === null")
    page.click("input[value=plane]")
    draw(page, "critic")
    assert page.value("$('critic-map').offsetParent !== null")
    draw(page, "paths")
    page.click("#path-ood", dx=-70)
    assert knob(page, "plane")[0] < 1.5
    page.key("[data-knob=y]", "End")
    assert knob(page, "plane")[1] == 2.0
    draw(page, "paths")
    assert all(row[1] == row[2] for row in table(page, "path-table")[1:])


def test_step_and_T(page):
    page.key("[data-panel=jumps] [data-knob=k]", "ArrowLeft", 3)
    assert knob(page, "k") == 2
    assert page.value("[...document.querySelectorAll('[data-knob=k]')].map(i => i.value)") == [
        "2",
        "2",
    ]
    few, many = traces(page, "jumps-gradient"), page.value("turn({ T: 50 }), knobs.k")
    assert many == 10 and "qgf_ros" in few
    assert "qgf_ros" not in traces(page, "jumps-gradient")
    peak = {name: max(map(abs, y)) for name, (_, y) in traces(page, "jumps-gradient").items()}
    assert peak["BPTT"] > 5 * peak["QGF"]  # the jump that the panel is about


def test_amplification_is_what_the_bars_multiply_to(page):
    drawn = traces(page, "chain-factors")
    product = sum(drawn["this step"][1])  # logarithms
    assert drawn["this step to the end"][1][0] == pytest.approx(product, abs=1e-9)
    assert 10**product > 10 and "15" in page.value("$('chain-said').innerText")


@pytest.mark.parametrize("width, dark", [(1000, False), (390, True)])
def test_fits_the_window_and_the_reader(page, width, dark):
    """Figures as wide as their place, nothing to scroll sideways, the reader's light or dark."""
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    page.send("Emulation.setEmulatedMedia", features=[scheme])
    resize(page, width)
    assert page.value("document.documentElement.scrollWidth") <= width
    paper = page.value("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") is not dark
    if width == 390:
        seen = "[...document.querySelectorAll('.plot')].filter(p => p.offsetParent).length"
        assert page.value(seen) == 15


def test_a_finger_on_a_figure_scrolls_or_picks_and_drags_a_handle(page):
    """In the phone's window of the test before, which has drawn everything for it."""
    resize(page, 390)

    def until(condition, *finger, **how):
        for _ in range(TRIES):
            page.touch(*finger, **how)
            if page.comes_true(condition):
                return
        raise AssertionError(f"not after {TRIES} fingers: {condition}")

    until("knobs.line[0] > 0", "#path-qgf", off=-30)
    until("knobs.height > 9", "#critic-profile-top", dy=-30)
    page.centre("#path-none")
    start, before = knob(page, "line"), page.value("scrollY")
    until(f"Math.abs(scrollY - {before}) > 50", "#path-none", dy=-100)
    assert knob(page, "line") == start


def test_prints_on_white_with_every_figure(page):
    page.send(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    page.value(
        "addEventListener('beforeprint', () => { window.printed = [$('guard-shares').layout.font.color, $('guard-shares').layout.width]; })"
    )
    pdf = page.send("Page.printToPDF")["data"]
    assert (
        pdf.startswith("JVBER")
        and page.value("printed[0]") == "#000"
        and page.value("printed[1]") <= 680
    )
    assert not page.value("document.documentElement.classList.contains('paper')")
    page.send("Emulation.setEmulatedMedia", features=[])


def test_nothing_left_the_page(page, file):
    """Last: whatever was clicked above, one request was made, for the file itself."""
    assert page.requests == [file.as_uri()]
