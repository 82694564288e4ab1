"""How long a robot takes to do what it is told, measured from a recording."""

from __future__ import annotations

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft

from training.pipeline.streams import Stream

LONGEST = 1.0  # s: lags are looked for between minus this and this
FINEST = 0.005  # s between two lags that are compared; a parabola tells what lies between them
MOST_POINTS = 2**18  # of the grid, more than 20 minutes: an hour says no more than that
GAP = 5  # periods without a message: nothing is known in between
FEWEST = 4  # messages


def measured_lead(command: Stream, state: Stream, period: float) -> tuple[np.ndarray, np.ndarray]:
    """The lag at which a measured state looks most like what was commanded.

    Both streams hold the same quantities (positions and positions, velocities and velocities) of
    the same joints, column by column. Compared are their changes over one period, by stamp: not
    the values, whose slow drift alone makes them alike at any lag.

    Args:
        command, state: values (N, d) and (M, d); what is not finite is left out.
        period: control period [s].

    Returns:
        seconds: (d,) how long after a command the state is most like it. Positive: the command
            leads. NaN where nothing can be said: a joint that did not move, or that is not alike
            at any lag within a second.
        correlation: (d,) in [-1, 1] at that lag, the figure of merit: from 0.9 on the state does
            what it was told, and below 0.5 the lag means little. NaN with the seconds.

    Raises:
        ValueError: the streams have not the same number of columns.
    """
    seconds, correlation = measured_leads(command, state, period)
    return seconds[0], correlation[0]


def measured_leads(command: Stream, state: Stream, period: float) -> tuple[np.ndarray, np.ndarray]:
    """As `measured_lead`, (2, d) each: first of the state, then of the state with its sign turned."""
    columns = command.values.shape[1]
    if state.values.shape[1] != columns:
        raise ValueError(
            f"command has {columns} columns and state {state.values.shape[1]}; they must be the same joints"
        )
    pairs = [_leads(_column(command, j), _column(state, j), period * 1e9) for j in range(columns)]
    seconds, correlation = np.array(pairs, float).reshape(columns, 2, 2).T
    return seconds, correlation


Column = tuple[np.ndarray, np.ndarray]  # stamps (N,) ascending [ns], numbers (N,)


def _column(stream: Stream, j: int) -> Column:
    """The finite numbers of one column, in order of their stamps; of equal ones the last."""
    fine = np.isfinite(stream.values[:, j])
    stamp, value = stream.stamp[fine], stream.values[fine, j]
    order = np.lexsort((stream.receipt[fine], stamp))
    last = np.append(np.diff(stamp[order]) > 0, True)[: len(order)]
    return stamp[order][last], value[order][last]


NOTHING = (np.nan, np.nan)


def lag_curve(command: Stream, state: Stream, period: float) -> tuple[np.ndarray, np.ndarray]:
    """Of streams of one column each: lags [s], and the correlation of their changes over a period at each, NaN
    where it is not known; both empty where they are too short for any."""
    found = _curve(_column(command, 0), _column(state, 0), period * 1e9)
    if found is None:
        return np.empty(0), np.empty(0)
    curve, reach, step = found
    return step * np.arange(-reach, reach + 1), curve


def _leads(
    command: Column, state: Column, period: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Seconds and correlation of one joint, and of its mirror image; period in ns."""
    nothing = (NOTHING, NOTHING)
    found = _curve(command, state, period)
    if found is None or np.isnan(found[0]).all():
        return nothing
    curve, reach, seconds = found
    return _peak(curve, reach, seconds), _peak(-curve, reach, seconds)


def _curve(command: Column, state: Column, period: float) -> tuple[np.ndarray, int, float] | None:
    """Correlations at lags -reach..reach, reach, and seconds between two lags; period in ns."""
    if min(len(command[0]), len(state[0])) < FEWEST:
        return None
    origin = min(command[0][0], state[0][0])
    command, state = ((stamp - origin, value) for stamp, value in (command, state))
    spacing = min(float(np.median(np.diff(stamp))) for stamp, _ in (command, state))
    step = max(min(spacing, period) / 2, FINEST * 1e9)
    end = max(command[0][-1], state[0][-1])
    grid = step * np.arange(min(int(end / step) + 1, MOST_POINTS))
    window, reach = max(1, round(period / step)), round(LONGEST * 1e9 / step)
    if len(grid) <= window + reach:
        return None
    curve = _correlations(
        *_changes(command, grid, window, period), *_changes(state, grid, window, period), reach
    )
    return curve, reach, step * 1e-9


def _peak(curve: np.ndarray, reach: int, step: float) -> tuple[float, float]:
    """Where a curve of lags is highest [s], between its points, and how high; step in s."""
    peak = int(np.nanargmax(curve))
    before, top, after = np.concatenate([[np.nan], curve, [np.nan]])[peak : peak + 3]
    bend = before - 2 * top + after
    if not bend < 0:  # NaN: it is highest where it ends, and a peak may be beyond
        return NOTHING
    return (peak - reach + 0.5 * (before - after) / bend) * step, top


def _changes(
    column: Column, grid: np.ndarray, window: int, period: float
) -> tuple[np.ndarray, np.ndarray]:
    """The change over `window` steps of the grid, 0 where it is not known; and 1.0 where it is:
    with messages all the while."""
    stamp, value = column
    after = np.clip(np.searchsorted(stamp, grid), 1, len(stamp) - 1)
    usual = float(np.median(np.diff(stamp)))
    gap = stamp[after] - stamp[after - 1] > max(GAP * period, 3 * usual)
    known = ~gap & (grid >= stamp[0]) & (grid <= stamp[-1])
    at = np.interp(grid, stamp, value)
    count = np.concatenate([[0], np.cumsum(known)])
    whole = count[window + 1 :] - count[: -window - 1] == window + 1
    return (at[window:] - at[:-window]) * whole, whole.astype(float)


def _correlations(
    a: np.ndarray, a_known: np.ndarray, b: np.ndarray, b_known: np.ndarray, reach: int
) -> np.ndarray:
    """(2 reach + 1,): Pearson's correlation of a[k] with b[k + lag], lag = -reach..reach, over
    what is known of both; NaN where that is little or does not vary.

    The sums are convolutions (Padfield, Masked object registration in the Fourier domain, 2012).
    """
    a, b = (
        (x - x.sum() / max(known.sum(), 1.0)) * known for x, known in ((a, a_known), (b, b_known))
    )

    def lagged(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        # As scipy.signal.fftconvolve, whose import takes longer than all of this.
        size = next_fast_len(len(x) + len(y) - 1, True)
        each = irfft(rfft(x[::-1], size) * rfft(y, size), size)
        return each[len(x) - 1 - reach : len(x) + reach]

    count = np.round(lagged(a_known, b_known))
    enough = count >= max(8.0, count.max() / 2)
    count = np.where(enough, count, 1.0)
    sum_a, sum_b = lagged(a, b_known), lagged(a_known, b)
    spread_a = lagged(a * a, b_known) - sum_a**2 / count
    spread_b = lagged(a_known, b * b) - sum_b**2 / count
    # Below a millionth of all that varied there is but rounding.
    usable = enough & (spread_a > (a @ a) * 1e-6) & (spread_b > (b @ b) * 1e-6)
    scale = np.sqrt(np.where(usable, spread_a * spread_b, 1.0))
    curve = (lagged(a, b) - sum_a * sum_b / count) / scale
    return np.where(usable, np.clip(curve, -1, 1), np.nan)
