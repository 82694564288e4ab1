"""How a draft makes limits of what was recorded."""

QUANTILES = (0.001, 0.999)  # not the extremes: a glitch is no limit
MARGIN = 0.1  # of the range, on either side, and of the rate
