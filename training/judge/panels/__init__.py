"""The panels of `qgf report`, a folder each, in the order of the page.

In a folder `figures.py` says what is computed: `figures(subject, **found)` -> a plain document, finite
numbers or NaN, where `found` is what the panels before it found, by name. `panel.html.j2` has the words
around it, `panel.js` and the other scripts draw from the document alone. A new panel is such a folder
and its name below. None of the figures knows HTML.

    fitness     is this critic fit to guide? From `evidence`, which is what followed held-out actions,
                and `soundness`, what the critic shows by itself; a `check` is one line of it
    sweep       what each beta gains and costs
    timeline    episodes, tick by tick, and the moments that can be clicked: Q around one (`landscape`),
                and how noise became an action there (`paths`); `packing`: arrays as short text
    estimators  other ways of asking the critic
    held_out    what training wrote to report.json, of the same episodes
    cameras     of a policy with cameras alone: what each is worth, what it saw at the timeline's moments,
                and where on it Q and the action hang (`saliency`)
"""

from pathlib import Path

FOLDER = Path(__file__).parent
PANELS = ("fitness", "sweep", "timeline", "estimators", "held_out", "cameras")
OF_CAMERAS = ("cameras",)  # of these PANELS a policy without cameras has none
