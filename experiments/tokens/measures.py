"""Measures of tokens: codes in use, reconstruction, stability, predictability of phenotypes and confounds, retrieval.

A measure that cannot be computed raises `Unavailable` with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm

from experiments.tokens.readings import BATCH, Part, TokenReadings, batch_inputs, read_tokens
from fmri_lm_hf.evaluation.baselines import fit_logistic
from fmri_lm_hf.evaluation.confounds import balanced_accuracy_with_interval, predictability, strata_of
from fmri_lm_hf.evaluation.design import training_records
from fmri_lm_hf.evaluation.features import Unavailable
from fmri_lm_hf.evaluation.metrics import roc_auc
from fmri_lm_hf.evaluation.tasks import class_name, is_missing
from fmri_lm_hf.models.feature_extraction_fmri import FmriFeatureExtractor
from fmri_lm_hf.models.modeling_fmri_tokenizer import FmriTokenizer
from fmri_lm_hf.models.modeling_fmri_tokenizer_pretraining import FmriTokenizerForPreTraining
from fmri_lm_hf.scans.likeness import content_sketch

VECTORS = ("tokens", "codes", "connectivity")  # the last is the reference for the other two
N_STABILITY = 300  # scans whose parts are read
FEWEST_FOR_ICC, FEWEST_FOR_RETRIEVAL = 3, 6

# Condition -> two parts of a scan that share no time point.
_FIRST_HALF = Part(0.0, 0.5)
PARTS = {
    "halves": (_FIRST_HALF, Part(0.5, 1.0)),
    "lengths": (_FIRST_HALF, Part(0.75, 1.0)),  # the second part is half as long
    "t_r": (_FIRST_HALF, Part(0.5, 1.0, every=2)),  # the second part is measured half as often
}


class MeanSd(TypedDict):
    """Mean and SD over scans."""

    mean: float
    sd: float


class IdentificationRate(TypedDict):
    """Rate of subject identification, what guessing reaches, and the number of measurements."""

    rate: float
    chance: float
    n: int


class IccQuartiles(TypedDict):
    """Median and quartiles of the ICC over values; None where no value varies."""

    median: float | None
    low: float | None
    high: float | None


# ------------------------------------------------------------------------------------------ codes and reconstruction


def codes_in_use(model: FmriTokenizer, readings: TokenReadings) -> dict[str, Any]:
    """How many codes of each quantizer stage the scans use, and their perplexity."""
    if "fmri_codes" not in readings.values:
        raise Unavailable("The checkpoint is `encoder_only` and has no codes.")
    statistics = model.code_statistics(readings.values["fmri_codes"], readings.values["token_mask"])
    n_codes = int(model.config.codebook_size or 0)
    return {
        "n_codes": n_codes,
        "n_tokens": int(readings.values["token_mask"].sum()),
        "levels": [
            {"used": used, "dead": dead, "share_used": used / n_codes, "perplexity": perplexity}
            for used, dead, perplexity in zip(statistics.used, statistics.dead, statistics.perplexity)
        ],
    }


def unexplained(readings: TokenReadings) -> dict[str, MeanSd]:
    """Share of the variance of signal and connectivity profiles that the reconstruction does not explain."""
    shares = {
        name: _mean_sd(readings.values[f"unexplained_{name}"].numpy())
        for name in ("signal", "profiles")
        if f"unexplained_{name}" in readings.values
    }
    if not shares:
        raise Unavailable("The tokenizer reconstructs nothing.")
    return shares


def survival(readings: TokenReadings, name: str, reason: str) -> dict[str, MeanSd]:
    """Correlate `edges` or `coskewness` of scans with those of their reconstructions.

    Returns
    -------
    dict
        ``whole``: the values as they are; ``individual``: less their mean over scans, with three scans or more.

    Raises
    ------
    Unavailable
        With `reason`, where the tokenizer does not reconstruct them.
    """
    if f"{name}_again" not in readings.values:
        raise Unavailable(reason)
    originals, again = (readings.values[key].double().numpy() for key in (name, f"{name}_again"))
    correlations = {"whole": _mean_sd(correlations_of_rows(originals, again))}
    # all scans share most of their connectivity: a decoder that returned the mean scan would score high on the whole
    if len(originals) > 2:
        centred = [values - np.nanmean(values, axis=0) for values in (originals, again)]
        correlations["individual"] = _mean_sd(correlations_of_rows(*centred))
    return correlations


def correlations_of_rows(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Correlate the rows of two matrices, over the values that both have."""
    known = np.isfinite(left) & np.isfinite(right)
    n = np.maximum(known.sum(1, keepdims=True), 1)
    left, right = (np.where(known, x - np.where(known, x, 0).sum(1, keepdims=True) / n, 0) for x in (left, right))
    norms = np.sqrt((left**2).sum(1) * (right**2).sum(1))
    return (left * right).sum(1) / np.maximum(norms, 1e-12)


def _mean_sd(values: np.ndarray) -> MeanSd:
    return {"mean": float(values.mean()), "sd": float(values.std())}


def n_seen_in_training(model: FmriTokenizer, scans: datasets.Dataset, rows: Sequence[int]) -> int | None:
    """Count the scans that the tokenizer was trained on, by its training record; None without a record."""
    records = training_records(model.record_of_weights() or {})
    if not records:
        return None
    sketches = [content_sketch(np.asarray(scans[row]["bold"])) for row in tqdm(rows, "Recognising scans", unit="scan")]
    held = [record.holds(sketches) for record in records]
    return int(np.any(held, axis=0).sum())


# --------------------------------------------------------------------------------------------------------- stability


def read_parts(
    model: FmriTokenizer,
    extractor: FmriFeatureExtractor,
    scans: datasets.Dataset,
    rows: Sequence[int],
    seed: int,
) -> dict[str, tuple[TokenReadings, TokenReadings] | str]:
    """Read both parts of the same scans in each condition of `PARTS`; a reason where that is impossible."""
    chosen = sorted(np.random.default_rng(seed).permutation(rows)[:N_STABILITY].tolist())
    read: dict[Part, TokenReadings] = {}
    reasons: dict[Part, str] = {}
    # the first half is a part of every condition: each part is read once
    for part in dict.fromkeys(part for pair in PARTS.values() for part in pair):
        try:
            read[part] = read_tokens(model, extractor, scans, chosen, part, "Reading parts of scans")
        except ValueError as error:
            reasons[part] = str(error)
    conditions: dict[str, tuple[TokenReadings, TokenReadings] | str] = {}
    for condition, pair in PARTS.items():
        if problems := [reasons[part] for part in pair if part in reasons]:
            conditions[condition] = problems[0]
        else:
            first, second = (read[part] for part in pair)
            # a part may be too short or censored where the other is not: only scans with both are compared
            both = sorted(set(first.rows) & set(second.rows))
            conditions[condition] = (first.only(both), second.only(both))
    return conditions


def identification_rates(
    scans: datasets.Dataset, first: TokenReadings, second: TokenReadings
) -> dict[str, dict[str, IdentificationRate]]:
    """Compute :func:`identification` with each kind of vector."""
    subjects, sites = _strings(scans, "subject_id", first.rows), _strings(scans, "site", first.rows)
    rates = {
        name: identification(first.values[name], second.values[name], subjects, sites) for name in _vectors(first)
    }
    if not any(rates.values()):
        raise Unavailable("No subject has a second scan.")
    return rates


def identification(
    first: torch.Tensor,
    second: torch.Tensor,
    subjects: Sequence[str],
    sites: Sequence[str],
) -> dict[str, IdentificationRate]:
    """Compute how often the most similar other measurement is of the same subject (fingerprinting [1]_).

    Similarity is the correlation of vectors, less the mean of their set. Both directions are averaged.

    Parameters
    ----------
    first, second : torch.Tensor of shape (n, size)
        Two sets of measurements of the same subjects in the same order. Where both are one tensor, a measurement is
        not compared with itself.
    subjects, sites : sequence of str of length n

    Returns
    -------
    dict
        For candidates from ``anywhere`` and, with several sites, ``same_site`` and ``other_sites`` (where a subject was
        measured at several). Only measurements with candidates both of the same subject and of others count; kinds of
        candidates that no measurement has are absent.

    References
    ----------
    .. [1] Finn ES et al. (2015). Functional connectome fingerprinting. Nature Neuroscience 18, 1664-1671.
    """
    similar = (_unit(first) @ _unit(second).T).numpy()
    same_subject, same_site = (np.equal.outer(x, x) for x in (np.asarray(subjects), np.asarray(sites)))
    different = ~np.eye(len(similar), dtype=bool) if second is first else np.ones_like(same_subject)
    rates: dict[str, IdentificationRate] = {}
    for kind, candidates in (
        ("anywhere", different),
        ("same_site", different & same_site),
        ("other_sites", different & ~same_site),
    ):
        if kind != "anywhere" and same_site.all():
            continue
        hits, chances = [], []
        n_candidates, n_right = candidates.sum(1), (candidates & same_subject).sum(1)
        asked = (n_right > 0) & (n_candidates > n_right)
        for values in (similar, similar.T):  # both directions; the masks are symmetric
            best = np.where(candidates, values, -np.inf).argmax(1)
            hits += same_subject[np.arange(len(best)), best][asked].tolist()
            chances += (n_right / np.maximum(n_candidates, 1))[asked].tolist()
        if hits:
            # of one set, both directions are the same measurements
            n = len(hits) // 2 if second is first else len(hits)
            rates[kind] = {"rate": float(np.mean(hits)), "chance": float(np.mean(chances)), "n": n}
    return rates


def _unit(values: torch.Tensor) -> torch.Tensor:
    # the mean over scans dominates the correlation of any two vectors; what is individual only shows without it
    centred = values.double() - values.double().mean(0)
    centred = centred - centred.mean(1, keepdim=True)
    return torch.nn.functional.normalize(centred, dim=1)


def reliability(scans: datasets.Dataset, first: TokenReadings, second: TokenReadings) -> dict[str, Any]:
    """Compute the :func:`intraclass_correlation` of each kind of vector.

    Given one set of readings twice, its first two scans of each subject are compared.
    """
    places = others = list(range(len(first.rows)))
    if second is first:
        places, others = first_two(_strings(scans, "subject_id", first.rows))
    if len(places) < FEWEST_FOR_ICC:
        raise Unavailable(f"{len(places)} subjects have two measurements, expected at least {FEWEST_FOR_ICC}.")
    return {
        name: intraclass_correlation(first.values[name][places], second.values[name][others])
        for name in _vectors(first)
    } | {"n": len(places)}


def first_two(subjects: Sequence[str]) -> tuple[list[int], list[int]]:
    """Positions of the first and of the second measurement of each subject who has two."""
    places: dict[str, list[int]] = {}
    for place, subject in enumerate(subjects):
        places.setdefault(subject, []).append(place)
    pairs = [each[:2] for each in places.values() if len(each) > 1]
    return [first for first, _ in pairs], [second for _, second in pairs]


def intraclass_correlation(first: torch.Tensor, second: torch.Tensor) -> IccQuartiles:
    """Compute ICC(1, 1) [1]_ of each value over two measurements of the same subjects, by one-way ANOVA.

    Parameters
    ----------
    first, second : torch.Tensor of shape (n_subjects, size)

    Returns
    -------
    IccQuartiles
        Over the values that vary.

    References
    ----------
    .. [1] Shrout PE, Fleiss JL (1979). Intraclass correlations: uses in assessing rater reliability. Psychological
       Bulletin 86, 420-428.
    """
    first, second = first.double(), second.double()
    mean = (first + second) / 2
    between = 2 * (mean - mean.mean(0)).square().sum(0) / max(len(mean) - 1, 1)
    within = ((first - mean).square() + (second - mean).square()).sum(0) / len(mean)
    # a value that never varies, as of an ROI that no scan has, would be 0 / 0
    icc = ((between - within) / (between + within))[between + within > 1e-12]
    if not len(icc):
        return {"median": None, "low": None, "high": None}
    low, median, high = torch.quantile(icc, torch.tensor([0.25, 0.5, 0.75], dtype=icc.dtype)).tolist()
    return {"median": median, "low": low, "high": high}


# ------------------------------------------------------------------- probes: what can be predicted from tokens


def confound_probe(scans: datasets.Dataset, readings: TokenReadings, confound: str, seed: int) -> dict[str, Any]:
    """Measure how well site or motion, which tokens should not carry, can be predicted from each kind of vector."""
    strata = strata_of(scans, readings.rows)
    if confound not in strata:
        raise Unavailable(f"The scans have one known value of {confound} or none, expected at least two.")
    return _cross_validated(scans, readings, strata[confound], seed)


def phenotype_probe(
    scans: datasets.Dataset,
    readings: TokenReadings,
    training: TokenReadings | None,
    column: str,
    seed: int,
) -> dict[str, Any]:
    """Measure how well a phenotype can be predicted from each kind of vector.

    Probes are fitted to the scans of other sites (`training`), or cross-validated where there are none. Age is always
    cross-validated: its classes are thirds of the measured scans, which other sites do not share.
    """
    if training is not None and column != "age":
        return _of_unseen_site(scans, readings, training, column, seed)
    strata = strata_of(scans, readings.rows).get(column) or _classes(scans, column, readings.rows)
    return _cross_validated(scans, readings, strata, seed)


def _cross_validated(
    scans: datasets.Dataset, readings: TokenReadings, strata: Sequence[str | None], seed: int
) -> dict[str, Any]:
    subjects = _strings(scans, "subject_id", readings.rows)
    return {
        name: predictability(readings.values[name].numpy(), strata, subjects, seed)
        for name in tqdm(_vectors(readings), "Probes", unit="probe")
    }


def _of_unseen_site(
    scans: datasets.Dataset, readings: TokenReadings, training: TokenReadings, column: str, seed: int
) -> dict[str, Any]:
    """Scores of probes that were fitted to the scans of other sites."""
    train, test = (_labels(scans, each, column) for each in (training, readings))
    names = sorted(set(train.values()))
    if len(names) < 2 or len(set(test.values())) < 2 or set(test.values()) - set(names):
        raise Unavailable(
            f"The measured scans have the classes {', '.join(sorted(set(test.values()))) or 'none'} and the training "
            f"scans {', '.join(names) or 'none'}: expected at least two in each, and no new one in the measured scans."
        )
    train_subjects, subjects = (
        _strings(scans, "subject_id", [each.rows[place] for place in labels])
        for each, labels in ((training, train), (readings, test))
    )
    truth = np.searchsorted(names, list(test.values()))
    scores = {}
    for name in tqdm(_vectors(readings), f"Probes of {column}", unit="probe"):
        x, y = (r.values[name].numpy()[list(labels)] for r, labels in ((training, train), (readings, test)))
        prediction = fit_logistic(x, list(train.values()), y, train_subjects)
        answers = np.searchsorted(names, prediction.labels)
        scores[name] = {
            **balanced_accuracy_with_interval(truth, answers, subjects, seed),
            "auc": roc_auc(list(test.values()), prediction.scores, prediction.classes),
            "chance": 1 / len(names),
            "n": len(truth),
        }
    return scores


def _labels(scans: datasets.Dataset, readings: TokenReadings, column: str) -> dict[int, str]:
    """The label of each reading that has one, by its position."""
    classes = _classes(scans, column, readings.rows)
    return {place: label for place, label in enumerate(classes) if label is not None}


# ---------------------------------------------------------------------------------------------- retrieval with texts


def retrieval(
    model: FmriTokenizer,
    extractor: FmriFeatureExtractor,
    scans: datasets.Dataset,
    rows: Sequence[int],
    texts: Mapping[str, torch.Tensor] | None,
) -> dict[str, Any]:
    """Measure how often scans retrieve their texts, and texts their scans, by the embeddings of stage 1."""
    if texts is None:
        raise Unavailable("There are no texts: give a corpus and the text model of the training.")
    if not isinstance(model, FmriTokenizerForPreTraining) or model.alignment is None:
        raise Unavailable(
            "The tokenizer has no alignment with texts: train it with a contrastive loss, and load it as a "
            "FmriTokenizerForPreTraining."
        )
    scan_ids = dict(zip(rows, _strings(scans, "scan_id", rows)))
    described = [row for row in rows if scan_ids[row] in texts]
    if len(described) < FEWEST_FOR_RETRIEVAL:
        raise Unavailable(f"{len(described)} of the scans have a text, expected at least {FEWEST_FOR_RETRIEVAL}.")
    of_scans = []
    for start in tqdm(range(0, len(described), BATCH), "Embedding scans", unit="batch"):
        extracted = [extractor(scans[row]) for row in described[start : start + BATCH]]
        of_scans.append(model.embed_scans(**batch_inputs(model, extractor, extracted)).cpu())
    embeddings = torch.stack([texts[scan_ids[row]] for row in described]).to(model.device)
    cosines = torch.cat(of_scans) @ model.embed_texts(embeddings).cpu().T
    return {
        "n": len(described),
        "scan_to_text": _recall(cosines),
        "text_to_scan": _recall(cosines.T),
        "chance": {f"r@{k}": k / len(described) for k in (1, 5)},
    }


def _recall(cosines: torch.Tensor) -> dict[str, float]:
    """Share of rows whose own column is among the best k.

    Of equals, as of a text that several scans share, half count as better: a model that embeds all texts alike is at
    chance.
    """
    own = cosines.diagonal()[:, None]
    better = (cosines > own).sum(1) + ((cosines == own).sum(1) - 1) / 2
    return {f"r@{k}": float((better < k).double().mean()) for k in (1, 5)}


# ----------------------------------------------------------------------------------------------------------- columns


def _vectors(readings: TokenReadings) -> list[str]:
    return [name for name in VECTORS if name in readings.values]


def _strings(scans: datasets.Dataset, column: str, rows: Sequence[int]) -> list[str]:
    values = list(scans[column])
    return [str(values[row]) for row in rows]


def _classes(scans: datasets.Dataset, column: str, rows: Sequence[int]) -> list[str | None]:
    values = list(scans[column])
    return [None if is_missing(values[row]) else class_name(values[row]) for row in rows]
