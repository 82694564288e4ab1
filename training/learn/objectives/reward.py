"""The sum of what is recorded as reward, which may be any number."""

from training.learn.objectives import base


class Objective(base.Objective):
    """Of a contract."""

    bounded = False
