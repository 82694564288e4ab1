"""An executor: threads of this process, where another has a cluster."""

from concurrent.futures import ThreadPoolExecutor


def threads(work, items, workers, ahead):
    with ThreadPoolExecutor(workers, "qgf_threads") as pool:
        yield from pool.map(work, items)
