"""A dataset format: tables of text, a file per episode. The first line names the numbers of each column:
"joints.shoulder" is one of `joints`."""

import csv

import numpy as np

from training.pipeline.readers.tables import Column, Rows, inside, recording, survey, wanted

RATE = 20  # rows per second


class CsvReader:
    version = 1

    def recognises(self, path):
        return path.is_dir() and any(path.glob("*.csv"))

    def recordings(self, path):
        return sorted(file.name for file in path.glob("*.csv"))

    def files(self, path, name):
        return [inside(path, name)]

    def read(self, path, name, contract):
        columns, rows = table(inside(path, name))
        return recording(
            name, path / name, contract, wanted(path / name, contract, columns), rows, {}
        )

    def survey(self, path, name):
        columns, rows = table(inside(path, name))
        return survey(name, columns, rows.stamp, {}, {}, RATE)


def table(file):
    with file.open(newline="") as opened:
        (*names,), *numbers = csv.reader(opened)
    values = np.array(numbers, np.float64).reshape(-1, len(names))
    columns = {}
    for column in dict.fromkeys(name.partition(".")[0] for name in names):
        own = [i for i, name in enumerate(names) if name.partition(".")[0] == column]
        columns[column] = Column(values[:, own], tuple(names[i].partition(".")[2] for i in own))
    period = round(1e9 / RATE)
    return columns, Rows(np.arange(len(values)) * period, period, columns.__getitem__)
