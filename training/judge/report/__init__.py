"""`qgf report`: what a policy, its critic and its data say before a robot moves.

    subject     what is looked at: the policy as it samples, and its episodes in their groups
    fitness     is this critic fit to guide? From `evidence`, which is what followed held-out actions,
                and `soundness`, what the critic shows by itself; a `check` is one line of it
    sweep       what each beta gains and costs
    timeline    episodes, tick by tick, and the moments that can be clicked
    landscape   Q around such a moment
    paths       how noise became an action there
    packing     how arrays become short text for the page
    estimators  other ways of asking the critic
    run         all of it to one page

Each gives a plain document, finite numbers or null, for `training.judge.pages.policy_page`; none of them
knows HTML.
"""
