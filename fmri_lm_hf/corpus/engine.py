"""Running many independent tasks: in this process, in several, or on a Dask cluster."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from ..scans.cluster import RETRIES, open_cluster

__all__ = ["Engine", "open_engine"]

Task = TypeVar("Task")
Engine = Callable[[Callable[[Task], int], Sequence[Task]], Iterator[int]]
"""Takes a function and its tasks, yields what each call returns, in the order in which they finish."""


@contextmanager
def open_engine(workers: int = 1, scheduler: str | None = None) -> Iterator[Engine]:
    """An engine that runs tasks, and lets go of its processes at the end.

    Tasks write what they make into files, each in one atomic step, and return a count for the progress bar. A task
    may therefore run twice, or on any machine that sees the same files.

    Parameters
    ----------
    workers : int, default=1
        Processes on this machine; with 1 the tasks run in this one.
    scheduler : str, optional
        Address of a Dask scheduler, such as ``tcp://node:8786``, whose workers see the same files.
    """
    if workers < 1:
        raise ValueError(f"workers={workers} found, expected at least 1.")
    if scheduler is not None:
        with _dask(scheduler) as engine:
            yield engine
    elif workers == 1:
        yield map
    else:
        with _processes(workers) as engine:
            yield engine


def die_with(parent: int) -> None:
    """End this process when its parent ends, however that came: an orphan would wait for work for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _processes(workers: int) -> Iterator[Engine]:
    with ProcessPoolExecutor(workers, initializer=die_with, initargs=(os.getpid(),)) as pool:

        def run(function: Callable[[Any], int], tasks: Sequence[Any]) -> Iterator[int]:
            futures = [pool.submit(function, task) for task in tasks]
            try:
                for future in as_completed(futures):
                    yield future.result()
            except BrokenProcessPool as error:
                raise OSError(
                    "A worker process ended unexpectedly, perhaps because memory ran out. Run the same command "
                    "again, with fewer workers: it continues where it stopped."
                ) from error
            finally:
                for future in futures:
                    future.cancel()

        yield run


@contextmanager
def _dask(scheduler: str) -> Iterator[Engine]:
    with open_cluster(scheduler) as client:
        from distributed import as_completed as dask_as_completed

        def run(function: Callable[[Any], int], tasks: Sequence[Any]) -> Iterator[int]:
            # Nothing but as_completed holds the futures, so that what is done and counted is not computed again when
            # the worker that did it is lost. It collects results itself, which survives such a loss as well.
            results = dask_as_completed(
                client.map(function, tasks, pure=False, retries=RETRIES), loop=client.loop, with_results=True
            )
            for _, count in results:
                yield count

        yield run
