"""How far a policy and its critic can be trusted, measured on held-out states.

    sensitivity   does the gradient survive a little noise, for each estimator?
    reach         what Q does guidance reach, how far from the data, and what would best-of-N?
    stability     from which weight on do the critic's own curves make the steps diverge?

Plain functions from a `Model` and `States` to frozen dataclasses; `analyze` does all three for a
policy folder. None of them knows whether an episode succeeds: `training.judge.evaluate` does.
"""
