"""What a tokenizer's tokens are worth: codes in use, what they keep of scans, stability, what can be read from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm

from ..models.feature_extraction_fmri import FmriFeatureExtractor
from ..models.modeling_fmri_tokenizer import FmriTokenizer
from ..models.modeling_fmri_tokenizer_pretraining import FmriTokenizerForPreTraining
from ..scans.content import content_sketch
from .design import training_records
from .token_probes import VECTORS, left_out, of_rows, phenotypes, unwanted
from .token_readings import TokenReadings, part_of, read_tokens
from .token_stability import first_two, identification, intraclass_correlation

__all__ = ["correlations_of_rows", "tokens_report"]

N_STABILITY = 300  # scans whose parts are read
# Conditions of stability: two parts of a scan that share no time point
HALVES = (part_of(0.0, 0.5), part_of(0.5, 1.0))
PARTS = {
    "halves": HALVES,
    "lengths": (HALVES[0], part_of(0.75, 1.0)),  # the second part is half as long
    "t_r": (HALVES[0], part_of(0.5, 1.0, every=2)),  # and measured half as often
}


def tokens_report(
    model: FmriTokenizer,
    extractor: FmriFeatureExtractor,
    scans: datasets.Dataset,
    labels: Sequence[str] = (),
    holdout_site: str | None = None,
    texts: Mapping[str, torch.Tensor] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a tokenizer on scans.

    Parameters
    ----------
    model : FmriTokenizer
        As `FmriTokenizerForPreTraining`, to measure retrieval.
    extractor : FmriFeatureExtractor
    scans : datasets.Dataset
        A scan dataset.
    labels : sequence of str
        Columns of classes that a probe is to predict, beside sex and age.
    holdout_site : str, optional
        The site that everything is measured on; probes of labels are trained on the others. Without it all scans are
        measured, and probes are cross-validated by subject.
    texts : mapping of str to torch.Tensor of shape (text_embed_dim,), optional
        Embedding of the description of each scan, by `scan_id`, for retrieval.
    seed : int

    Returns
    -------
    dict
        ``codes``, ``reconstruction``, ``connectivity_r``, ``coskewness_r``, ``identification``, ``icc``, ``site``,
        ``motion``, ``phenotypes``, ``retrieval``; each with numbers, or with ``left_out``, the reason why there are
        none. Beside these ``n_scans``, ``failures`` and ``n_seen_in_training``.
    """
    model = model.eval()
    sites = [str(site) for site in scans["site"]]
    if holdout_site is not None and len(set(sites) - {holdout_site}) == len(set(sites)):
        raise ValueError(
            f"No scan is from site {holdout_site!r}: the scans come from {', '.join(sorted(set(sites)))}."
        )
    measured = [row for row, site in enumerate(sites) if holdout_site in (None, site)]
    others = [row for row, site in enumerate(sites) if holdout_site not in (None, site)]
    whole = read_tokens(model, extractor, scans, measured)
    parts = _read_parts(model, extractor, scans, whole.rows, seed)
    training = _read_vectors(model, extractor, scans, others)
    return {
        "n_scans": len(whole.rows),
        "failures": [{"scan_id": name, "reason": why} for name, why in whole.failures.items()],
        "n_seen_in_training": _n_seen(model, scans, whole.rows),
        "codes": _codes(model, whole),
        "reconstruction": _reconstruction(whole),
        "connectivity_r": _survival(whole, "edges", "The tokenizer reconstructs nothing."),
        "coskewness_r": _survival(
            whole, "coskewness", "The tokenizer reconstructs no signal, in which alone there is co-skewness."
        ),
        "identification": _identification(scans, whole, parts),
        "icc": _icc(scans, whole, parts),
        **unwanted(scans, whole, training, seed),
        "phenotypes": phenotypes(scans, whole, training, labels, seed),
        "retrieval": _retrieval(model, extractor, scans, whole.rows, texts),
    }


def _read_parts(
    model: FmriTokenizer,
    extractor: FmriFeatureExtractor,
    scans: datasets.Dataset,
    rows: Sequence[int],
    seed: int,
) -> dict[str, tuple[TokenReadings, TokenReadings] | str]:
    """Both parts of the scans in each condition, of the same scans in the same order; or why there are none."""
    chosen = sorted(np.random.default_rng(seed).permutation(rows)[:N_STABILITY].tolist())
    read: dict[int, TokenReadings | str] = {}

    def reading(part: Any, title: str) -> TokenReadings | str:
        if id(part) not in read:
            try:
                read[id(part)] = read_tokens(model, extractor, scans, chosen, part, title)
            except ValueError as error:
                read[id(part)] = str(error)
        return read[id(part)]

    found: dict[str, tuple[TokenReadings, TokenReadings] | str] = {}
    for condition, (part, other) in PARTS.items():
        first, second = reading(part, f"Parts: {condition}"), reading(other, f"Other parts: {condition}")
        if isinstance(first, str) or isinstance(second, str):
            found[condition] = first if isinstance(first, str) else str(second)
            continue
        both = sorted(set(first.rows) & set(second.rows))
        found[condition] = (_only(first, both), _only(second, both))
    return found


def _only(readings: TokenReadings, rows: Sequence[int]) -> TokenReadings:
    places = [readings.rows.index(row) for row in rows]
    return TokenReadings(
        list(rows), readings.failures, {name: values[places] for name, values in readings.values.items()}
    )


def _read_vectors(
    model: FmriTokenizer, extractor: FmriFeatureExtractor, scans: datasets.Dataset, rows: Sequence[int]
) -> TokenReadings | None:
    return (
        read_tokens(model, extractor, scans, rows, part_of(), "Reading scans of other sites")
        if rows
        else None
    )


def _n_seen(model: FmriTokenizer, scans: datasets.Dataset, rows: Sequence[int]) -> int | None:
    """How many of the scans the tokenizer was trained on, by its record; None where it has none."""
    records = training_records(model.record_of_weights() or {})
    if not records:
        return None
    sketches = [
        content_sketch(np.asarray(scans[row]["bold"])) for row in tqdm(rows, "Recognising scans", unit="scan")
    ]
    held = [record.holds(sketches) for record in records]
    return int(np.any(held, axis=0).sum())


def _codes(model: FmriTokenizer, whole: TokenReadings) -> dict[str, Any]:
    if "fmri_codes" not in whole.values:
        return left_out("The checkpoint is `encoder_only` and has no codes.")
    statistics = model.code_statistics(whole.values["fmri_codes"], whole.values["token_mask"])
    n_codes = int(model.config.codebook_size or 0)
    return {
        "n_codes": n_codes,
        "n_tokens": int(whole.values["token_mask"].sum()),
        "levels": [
            {"used": used, "dead": dead, "share_used": used / n_codes, "perplexity": perplexity}
            for used, dead, perplexity in zip(statistics.used, statistics.dead, statistics.perplexity)
        ],
    }


def _reconstruction(whole: TokenReadings) -> dict[str, Any]:
    found = {
        name: _spread(whole.values[f"unexplained_{name}"].numpy())
        for name in ("signal", "profiles")
        if f"unexplained_{name}" in whole.values
    }
    return found or left_out("The tokenizer reconstructs nothing.")


def _survival(whole: TokenReadings, name: str, reason: str) -> dict[str, Any]:
    """Correlation of what a scan had with what its reconstruction has, and the same of what is particular about it."""
    if f"{name}_again" not in whole.values:
        return left_out(reason)
    had, has = (whole.values[each].double().numpy() for each in (name, f"{name}_again"))
    found = {"whole": _spread(correlations_of_rows(had, has))}
    if len(had) > 2:
        less_mean = [values - np.nanmean(values, axis=0) for values in (had, has)]
        found["individual"] = _spread(correlations_of_rows(*less_mean))
    return found


def correlations_of_rows(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of the rows of both, over the values that both have."""
    known = np.isfinite(left) & np.isfinite(right)
    n = np.maximum(known.sum(1, keepdims=True), 1)
    left, right = (
        np.where(known, x - np.where(known, x, 0).sum(1, keepdims=True) / n, 0) for x in (left, right)
    )
    norms = np.sqrt((left**2).sum(1) * (right**2).sum(1))
    return (left * right).sum(1) / np.maximum(norms, 1e-12)


def _spread(values: np.ndarray) -> dict[str, float]:
    return {"mean": float(values.mean()), "sd": float(values.std())}


def _identification(
    scans: datasets.Dataset, whole: TokenReadings, parts: Mapping[str, Any]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for condition, pair in ({"other_scan": (whole, whole)} | dict(parts)).items():
        if isinstance(pair, str):
            found[condition] = left_out(pair)
            continue
        first, second = pair
        subjects, sites = of_rows(scans, "subject_id", first.rows), of_rows(scans, "site", first.rows)
        by_vector = {
            name: identification(first.values[name], second.values[name], subjects, sites)
            for name in VECTORS
            if name in first.values
        }
        found[condition] = by_vector if any(by_vector.values()) else left_out("Nobody has a second scan.")
    return found


def _icc(scans: datasets.Dataset, whole: TokenReadings, parts: Mapping[str, Any]) -> dict[str, Any]:
    first, second = first_two(of_rows(scans, "subject_id", whole.rows))
    pairs = {"other_scan": (whole, whole, first, second)}
    if not isinstance(parts["halves"], str):
        each = list(range(len(parts["halves"][0].rows)))
        pairs["halves"] = (*parts["halves"], each, each)
    found: dict[str, Any] = {}
    for condition, (left, right, rows, others) in pairs.items():
        if len(rows) < 3:
            found[condition] = left_out(f"{len(rows)} people have two measurements; three are needed.")
            continue
        found[condition] = {
            name: intraclass_correlation(left.values[name][rows], right.values[name][others])
            for name in VECTORS
            if name in left.values
        } | {"n": len(rows)}
    if "halves" not in found:
        found["halves"] = left_out(str(parts["halves"]))
    return found


def _retrieval(
    model: FmriTokenizer,
    extractor: FmriFeatureExtractor,
    scans: datasets.Dataset,
    rows: Sequence[int],
    texts: Mapping[str, torch.Tensor] | None,
) -> dict[str, Any]:
    if texts is None:
        return left_out("No texts were given.")
    if not isinstance(model, FmriTokenizerForPreTraining) or model.alignment is None:
        return left_out(
            "The tokenizer was not aligned with texts, or only the part without the alignment was loaded."
        )
    ids = dict(zip(rows, of_rows(scans, "scan_id", rows)))
    described = [row for row in rows if ids[row] in texts]
    if len(described) < 6:
        return left_out(f"{len(described)} of the scans have a text; six are needed.")
    seen = []
    for start in tqdm(range(0, len(described), 16), "Scans beside texts", unit="batch"):
        batch = [extractor(scans[row]) for row in described[start : start + 16]]
        inputs = {name: torch.cat([each[name] for each in batch]) for name in extractor.model_input_names}
        seen.append(model.embed_scans(**{name: each.to(model.device) for name, each in inputs.items()}).cpu())
    told = model.embed_texts(torch.stack([texts[ids[row]] for row in described]).to(model.device)).cpu()
    cosines = torch.cat(seen) @ told.T
    return {
        "n": len(described),
        "scan_to_text": _recall(cosines),
        "text_to_scan": _recall(cosines.T),
        "chance": {f"r@{k}": k / len(described) for k in (1, 5)},
    }


def _recall(cosines: torch.Tensor) -> dict[str, float]:
    """Share of rows whose own column is among the best k; of equals (a text that two scans share), half count."""
    own = cosines.diagonal()[:, None]
    better = (cosines > own).sum(1) + ((cosines == own).sum(1) - 1) / 2
    return {f"r@{k}": float((better < k).double().mean()) for k in (1, 5)}
