"""Timing of the benchmarks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def median_seconds(function: Callable[[], object], repeats: int, warm_up: bool = True) -> tuple[float, float]:
    """Measure medians of the time on the clock and of the processor time, which other programs disturb less.

    With `warm_up` the function is called once before it is timed.
    """
    if warm_up:
        function()
    clock, processor = [], []
    # medians: one repetition during which another program woke up would move a mean
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        function()
        clock.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    return statistics.median(clock), statistics.median(processor)
