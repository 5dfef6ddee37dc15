"""What a scan must have for a question to be answered, and the reason and the alternative where it lacks that."""

from __future__ import annotations

from collections.abc import Iterable

from ..descriptors.ica import LAG_SECONDS, MIN_STRETCH_SECONDS, WHOLE_BAND
from .measures import ScanMeasures
from .statements import NOUNS, Unanswerable, counted, listed

_WHOLE_INSTEAD = "Ask for the modularity of the scan, or for the range of its principal gradient."
_PAIRS_INSTEAD = "Ask how strongly two networks are coupled, or for the strongest coupling."


def require_networks(measures: ScanMeasures, names: Iterable[str]) -> None:
    """Refuse a network that the atlas lacks, or that has no usable region."""
    for name in names:
        if name not in measures.network_names:
            raise Unanswerable(f"The atlas of this scan has no network {name}.", _ask_about(measures))
        if not measures.n_usable[name]:
            raise Unanswerable(_no_region(measures, name), _ask_about(measures))


def _no_region(measures: ScanMeasures, name: str) -> str:
    n = measures.n_rois[name]
    which = "its only region is" if n == 1 else f"all of its {n} regions are"
    return f"This scan has no usable signal of {name}: {which} masked, constant, or hold invalid values.".replace(
        "region is masked, constant, or hold", "region is masked, constant, or holds"
    )


def _ask_about(measures: ScanMeasures) -> str:
    if not measures.present:
        return _WHOLE_INSTEAD
    if len(measures.present) == 1:
        return f"Ask about {measures.present[0]}."
    return f"Ask about {', '.join(measures.present[:-1])} or {measures.present[-1]}."


def require_pair(measures: ScanMeasures, first: str, second: str) -> float:
    """Return the connectivity of a pair whose networks have usable regions, or refuse it."""
    value = measures.pair(first, second)
    if value is None:
        raise Unanswerable(
            f"{_only_one(measures, first)} in this scan, so that there is no coupling inside it.",
            _pairs_of(measures, first),
        )
    return value


def _only_one(measures: ScanMeasures, name: str) -> str:
    n = measures.n_rois[name]
    return f"The network {name} has only one usable region{f' (of {n})' if n > 1 else ''}"


def _pairs_of(measures: ScanMeasures, name: str) -> str:
    if len(measures.present) > 1:
        return f"Ask which network {name} is coupled with most."
    return _WHOLE_INSTEAD


def require_between(measures: ScanMeasures, name: str | None = None) -> dict[tuple[str, str], float]:
    """Return the pairs of different networks, or refuse a scan of fewer than two networks."""
    if measures.between:
        return measures.between
    present = measures.present
    found = (
        f"only one network with usable regions, {present[0]}" if present else "no named network with usable regions"
    )
    instead = f"Ask how strong the coupling inside {present[0]} is." if measures.within else _WHOLE_INSTEAD
    raise Unanswerable(f"This scan has {found}, so that there is no pair of networks.", instead)


def require_within(measures: ScanMeasures) -> dict[tuple[str, str], float]:
    """Return the connectivity within each network, or refuse a scan without two regions of any network."""
    if measures.within:
        return measures.within
    instead = _PAIRS_INSTEAD if measures.between else _WHOLE_INSTEAD
    raise Unanswerable("No network of this scan has two usable regions, so that none has a coupling inside.", instead)


def require_measure(measures: ScanMeasures, measure: str, name: str | None = None):
    """Return a measure of a network, or refuse; without a name, refuse if no network has it."""
    values = measures.values(measure)
    if not measures.present:
        raise Unanswerable("This scan has no named network with usable regions.", _WHOLE_INSTEAD)
    if not values or (name is not None and name not in values):
        raise Unanswerable(_no_measure(measures, measure), _PAIRS_INSTEAD if measures.between else _WHOLE_INSTEAD)
    if measure == "node_strength" and not any(values.values()):
        raise Unanswerable(_NO_EDGES, _PAIRS_INSTEAD)
    return None if name is None else measures.network(measure, name)


_NO_EDGES = "No two regions of this scan are positively correlated, so that its graph has no edges."


def _no_measure(measures: ScanMeasures, measure: str) -> str:
    """Say why a measure of signals cannot be computed."""
    noun, t_r, observed = NOUNS[measure][0], measures.scan.t_r, measures.scan.observed
    lead = f"This scan has no {noun}"
    if measure in ("falff", "low_high_ratio"):
        highest = WHOLE_BAND[1]
        if 0.5 / t_r < highest:
            return (
                f"{lead}: it needs frequencies up to {highest} Hz, which a repetition time of {t_r:g} s does not "
                f"resolve (at most {0.5 / highest:.1f} s)."
            )
        if not observed.all():
            return (
                f"{lead}: too few time points follow each other without a gap ({MIN_STRETCH_SECONDS:g} s are needed)."
            )
        return f"{lead}: {len(observed) * t_r:.0f} s are too short for slow frequencies."
    if measure == "autocorrelation" and t_r > LAG_SECONDS:
        return f"{lead}: it is taken {LAG_SECONDS:g} s apart, less than the repetition time of {t_r:g} s."
    return f"{lead}: only {observed.sum()} of {len(observed)} time points were observed, with too many gaps."


def require_whole(measures: ScanMeasures, measure: str):
    """Return a measure of the whole scan against chance, or refuse a scan whose graph has no edges."""
    found = measures.whole(measure)
    if found is None:
        raise Unanswerable(_NO_EDGES, _PAIRS_INSTEAD)
    return found


def require_positions(measures: ScanMeasures) -> None:
    """Refuse a gradient that has no two networks at different places."""
    if measures.positions:
        return
    present = measures.present
    if len(present) > 1:
        raise Unanswerable(
            f"The networks {listed(present)} lie at the same place of the principal gradient of this scan, so that it "
            "has no ends.",
            _PAIRS_INSTEAD,
        )
    raise Unanswerable(
        f"This scan has {counted(len(present), 'network')} with usable regions; a position on the principal gradient "
        "is told by two or more.",
        "Ask for the range of the principal gradient.",
    )
