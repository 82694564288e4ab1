"""The data doctor: what is in a dataset, and what is wrong with it, before anyone trains on it.

roles      which signals command, measure, tell the outcome; which number is which joint's
sample     a uniform sample of any number of rows in bounded memory
summary    one recording in numbers
dataset    all recordings, one after the other, whatever their number
leads      how commands lead the states, and how far states stay off what was commanded
contract   what alignment to a contract keeps and drops
checks     verdicts, each with its fix; check_* are its subjects
examine    all of it: the document, the tables, the page
"""
