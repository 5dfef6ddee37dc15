"""A Dask cluster, for work that several machines share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["RETRIES", "open_cluster"]

RETRIES = 3  # of a task whose machine failed; the scheduler also moves tasks away from workers that die


@contextmanager
def open_cluster(scheduler: str) -> Iterator[Any]:
    """A client of the Dask scheduler at an address such as ``tcp://node:8786``, whose workers see the same files."""
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        raise ImportError(
            "A Dask scheduler needs the package distributed: `pip install 'fmri-lm-hf[dask]'`."
        ) from error
    try:
        client = Client(scheduler, timeout=30, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise OSError(
            f"No Dask scheduler answers at {scheduler}: start one with `dask scheduler`, or check the address."
        ) from error
    with client:
        try:
            yield client
        except KilledWorker as error:
            raise OSError(
                "Several Dask workers died over the same scans, perhaps because memory ran out. Run the same command "
                "again, with more memory a worker: it continues where it stopped."
            ) from error
