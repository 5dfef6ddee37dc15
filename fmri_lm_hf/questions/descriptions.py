"""Descriptions of a scan or of one network: a few statements that are worth saying, each once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from .bins import BINS, UNITS
from .measure_answers import ends_statements, network_extreme, position_statement
from .measures import SCAN_MEASURES, ScanMeasures
from .pair_answers import count_words, extreme_pair, partner, scope_answer
from .query import SPECTRAL, Query
from .reasons import require_between, require_measure
from .statements import (
    Answer,
    Statement,
    Unanswerable,
    kind_words,
    left_out,
    listed,
    network_statement,
    pair_statement,
    sentence,
    whole_statement,
)
