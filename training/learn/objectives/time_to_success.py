"""1 at success, worth less the later."""

from training.learn.objectives import base


class Objective(base.Objective):
    """Of a contract."""
