"""Read scans in this process, in several processes of this machine, or on a Dask cluster: `read_all`."""

from __future__ import annotations

import collections
import concurrent.futures
import concurrent.futures.process
import errno
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..models.scan_errors import ScanError

if TYPE_CHECKING:  # the corpus needs the cluster alone, without the sources of scans
    from .sources.source import ScanFile, Source

# The row of a scan; or None, and the reason why it cannot be used.
Result = tuple[dict[str, Any] | None, str]
RETRIES = 3  # of a task whose machine failed; the scheduler also moves tasks away from workers that die
# Errors of the machine and not of a scan, which stop the run: a full disk would make all other scans fail, too.
MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def read_all(
    source: Source, files: Sequence[ScanFile], workers: int = 1, scheduler: str | None = None
) -> Iterator[Result]:
    """Read scans, in the order of `files`.

    Parameters
    ----------
    source : Source
    files : sequence of ScanFile
    workers : int
        Processes of this machine.
    scheduler : str, optional
        Address of a Dask scheduler; `workers` is then not used.
    """
    if scheduler is not None:
        yield from _read_on_cluster(source, files, scheduler)
    elif workers > 1 and len(files) > 1:
        yield from _read_in_processes(source, files, workers)
    else:
        for file in files:
            yield _read_scan(source, file)


def _read_scan(source: Source, file: ScanFile) -> Result:
    """Read one scan; any error of a library becomes its reason, so that the other scans are still read."""
    name = file.inputs[0].name if file.inputs else file.scan_id
    try:
        return source.read_row(file), ""
    except ScanError as error:
        reason = str(error)
    except (MemoryError, ImportError):
        raise
    except OSError as error:
        if error.errno in MACHINE_ERRORS:
            raise
        reason = f"cannot be read: {error.strerror or error}"
    except Exception as error:
        reason = f"cannot be read: {type(error).__name__}: {error}"
    reason = " ".join(reason.split())  # one line of a table; messages of libraries may have several
    return None, reason if name in reason or file.scan_id in reason else f"{name}: {reason}"


def _in_order(submit: Callable[[ScanFile], Any], files: Sequence[ScanFile], at_once: int) -> Iterator[Result]:
    """Yield the results of futures in order, with at most `at_once` in flight."""
    # Submitting all at once would let results pile up in memory faster than shards are written.
    in_flight: collections.deque[Any] = collections.deque()
    for file in files:
        in_flight.append(submit(file))
        if len(in_flight) >= at_once:
            yield in_flight.popleft().result()
    while in_flight:
        yield in_flight.popleft().result()


# Processes of this machine, which end with this one


def _read_in_processes(source: Source, files: Sequence[ScanFile], workers: int) -> Iterator[Result]:
    # A plain fork would copy threads of numpy and Arrow in mid-air; a fork server imports this once for all workers.
    can_fork = "forkserver" in multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if can_fork else "spawn")
    if can_fork:
        context.set_forkserver_preload([__name__, f"{__package__}.sources"])
    with concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, (source,)) as pool:
        try:
            yield from _in_order(lambda file: pool.submit(_read_in_worker, file), files, 4 * workers)
        except concurrent.futures.process.BrokenProcessPool as error:
            raise ChildProcessError(
                "A worker process was killed, most likely for lack of memory: run the same command again to continue, "
                "with fewer workers."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_worker_source: Source | None = None  # of a worker process: sent once, as its atlas may hold a large image


def _start_worker(source: Source) -> None:
    global _worker_source
    _worker_source = source
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Exit as soon as the parent process has ended, even if it was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _read_in_worker(file: ScanFile) -> Result:
    assert _worker_source is not None
    return _read_scan(_worker_source, file)


# A Dask cluster of several machines


@contextmanager
def open_cluster(scheduler: str) -> Iterator[Any]:
    """Connect to the Dask scheduler at an address such as ``tcp://node:8786``, whose workers see the same files."""
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


def _read_on_cluster(source: Source, files: Sequence[ScanFile], scheduler: str) -> Iterator[Result]:
    with open_cluster(scheduler) as client:
        # As the result of a task, the source goes to each worker once (its atlas may hold a large image), and Dask
        # makes it again if the workers that held it are lost; scattered data would be lost for good.
        sent = client.submit(_identity, source, pure=False, retries=RETRIES)
        at_once = 4 * max(1, sum(client.nthreads().values()))

        def submit(file: ScanFile) -> Any:
            return client.submit(_read_scan, sent, file, pure=False, retries=RETRIES)

        yield from _in_order(submit, files, at_once)


def _identity(source: Source) -> Source:
    return source
