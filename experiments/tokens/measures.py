"""Measures of tokens: codes in use, what survives reconstruction, stability, what can be predicted, and retrieval.

A measure that cannot be had raises `Unavailable` with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm

from experiments.tokens.readings import Part, TokenReadings, batch_inputs, read_tokens
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

VECTORS = ("tokens", "codes", "connectivity")  # the last one is what the others are compared with
N_STABILITY = 300  # scans whose parts are read
FEWEST_FOR_ICC, FEWEST_FOR_RETRIEVAL = 3, 6

# Condition -> two parts of a scan that share no time point.
_FIRST_HALF = Part(0.0, 0.5)
PARTS = {
    "halves": (_FIRST_HALF, Part(0.5, 1.0)),
    "lengths": (_FIRST_HALF, Part(0.75, 1.0)),  # the second part is half as long
    "t_r": (_FIRST_HALF, Part(0.5, 1.0, every=2)),  # the second part is measured half as often
}


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


def unexplained(readings: TokenReadings) -> dict[str, Any]:
    """Share of the variance of signal and connectivity profiles that the reconstruction does not explain."""
    found = {
        name: _mean_sd(readings.values[f"unexplained_{name}"].numpy())
        for name in ("signal", "profiles")
        if f"unexplained_{name}" in readings.values
    }
    if not found:
        raise Unavailable("The tokenizer reconstructs nothing.")
    return found


def survival(readings: TokenReadings, name: str, reason: str) -> dict[str, Any]:
    """Correlation of `edges` or `coskewness` of scans and reconstructions, as they are and less their mean over scans.

    Raises
    ------
    Unavailable
        With `reason`, where the tokenizer reconstructs none.
    """
    if f"{name}_again" not in readings.values:
        raise Unavailable(reason)
    originals, again = (readings.values[each].double().numpy() for each in (name, f"{name}_again"))
    found = {"whole": _mean_sd(correlations_of_rows(originals, again))}
    if len(originals) > 2:
        less_mean = [values - np.nanmean(values, axis=0) for values in (originals, again)]
        found["individual"] = _mean_sd(correlations_of_rows(*less_mean))
    return found


def correlations_of_rows(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Correlations of the rows of two matrices, over the values that both have."""
    known = np.isfinite(left) & np.isfinite(right)
    n = np.maximum(known.sum(1, keepdims=True), 1)
    left, right = (np.where(known, x - np.where(known, x, 0).sum(1, keepdims=True) / n, 0) for x in (left, right))
    norms = np.sqrt((left**2).sum(1) * (right**2).sum(1))
    return (left * right).sum(1) / np.maximum(norms, 1e-12)


def _mean_sd(values: np.ndarray) -> dict[str, float]:
    return {"mean": float(values.mean()), "sd": float(values.std())}


def n_seen_in_training(model: FmriTokenizer, scans: datasets.Dataset, rows: Sequence[int]) -> int | None:
    """How many of the scans the tokenizer was trained on, by its record; None where it has none."""
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
    """Both parts of the same scans in each condition; or why they cannot be read."""
    chosen = sorted(np.random.default_rng(seed).permutation(rows)[:N_STABILITY].tolist())
    read: dict[Part, TokenReadings] = {}
    reasons: dict[Part, str] = {}
    for part in dict.fromkeys(part for pair in PARTS.values() for part in pair):
        try:
            read[part] = read_tokens(model, extractor, scans, chosen, part, "Reading parts of scans")
        except ValueError as error:
            reasons[part] = str(error)
    found: dict[str, tuple[TokenReadings, TokenReadings] | str] = {}
    for condition, pair in PARTS.items():
        if why := [reasons[part] for part in pair if part in reasons]:
            found[condition] = why[0]
        else:
            first, second = (read[part] for part in pair)
            both = sorted(set(first.rows) & set(second.rows))
            found[condition] = (first.only(both), second.only(both))
    return found


def identification_rates(scans: datasets.Dataset, first: TokenReadings, second: TokenReadings) -> dict[str, Any]:
    """:func:`identification` by each vector."""
    subjects, sites = _strings(scans, "subject_id", first.rows), _strings(scans, "site", first.rows)
    found = {
        name: identification(first.values[name], second.values[name], subjects, sites) for name in _vectors(first)
    }
    if not any(found.values()):
        raise Unavailable("No subject has a second scan.")
    return found


def identification(
    first: torch.Tensor,
    second: torch.Tensor,
    subjects: Sequence[str],
    sites: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """How often the most similar other measurement is of the same subject (fingerprinting [1]_).

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
        measured at several): ``rate``, ``chance`` and ``n`` measurements that have candidates of the same subject and
        of others. Kinds of candidates that no measurement has are absent.

    References
    ----------
    .. [1] Finn ES et al. (2015). Functional connectome fingerprinting. Nature Neuroscience 18, 1664-1671.
    """
    similar = (_unit(first) @ _unit(second).T).numpy()
    same_subject, same_site = (np.equal.outer(x, x) for x in (np.asarray(subjects), np.asarray(sites)))
    different = ~np.eye(len(similar), dtype=bool) if second is first else np.ones_like(same_subject)
    found = {}
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
        for values in (similar, similar.T):  # the masks are symmetric
            best = np.where(candidates, values, -np.inf).argmax(1)
            hits += same_subject[np.arange(len(best)), best][asked].tolist()
            chances += (n_right / np.maximum(n_candidates, 1))[asked].tolist()
        if hits:
            n = len(hits) // 2 if second is first else len(hits)
            found[kind] = {"rate": float(np.mean(hits)), "chance": float(np.mean(chances)), "n": n}
    return found


def _unit(values: torch.Tensor) -> torch.Tensor:
    # the mean over scans dominates any two vectors: without it, what is left is individual
    centred = values.double() - values.double().mean(0)
    centred = centred - centred.mean(1, keepdim=True)
    return torch.nn.functional.normalize(centred, dim=1)


def reliability(scans: datasets.Dataset, first: TokenReadings, second: TokenReadings) -> dict[str, Any]:
    """:func:`intraclass_correlation` of each vector; of one set of readings, over two scans of each subject."""
    places = others = list(range(len(first.rows)))
    if second is first:
        places, others = first_two(_strings(scans, "subject_id", first.rows))
    if len(places) < FEWEST_FOR_ICC:
        raise Unavailable(f"{len(places)} subjects have two measurements; {FEWEST_FOR_ICC} are needed.")
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


def intraclass_correlation(first: torch.Tensor, second: torch.Tensor) -> dict[str, float | None]:
    """ICC(1, 1) [1]_ of each value over two measurements of the same subjects, by one-way analysis of variance.

    Parameters
    ----------
    first, second : torch.Tensor of shape (n_subjects, size)

    Returns
    -------
    dict
        ``median`` and quartiles ``low``, ``high`` over the values that vary; None where none does.

    References
    ----------
    .. [1] Shrout PE, Fleiss JL (1979). Intraclass correlations: uses in assessing rater reliability. Psychological
       Bulletin 86, 420-428.
    """
    first, second = first.double(), second.double()
    mean = (first + second) / 2
    between = 2 * (mean - mean.mean(0)).square().sum(0) / max(len(mean) - 1, 1)
    within = ((first - mean).square() + (second - mean).square()).sum(0) / len(mean)
    icc = ((between - within) / (between + within))[between + within > 1e-12]
    if not len(icc):
        return {"median": None, "low": None, "high": None}
    low, median, high = torch.quantile(icc, torch.tensor([0.25, 0.5, 0.75], dtype=icc.dtype)).tolist()
    return {"median": median, "low": low, "high": high}


# --------------------------------------------------------------------------------------- what tokens let one predict


def confound_probe(scans: datasets.Dataset, readings: TokenReadings, confound: str, seed: int) -> dict[str, Any]:
    """How well site or motion, which tokens should not carry, can be predicted from each vector."""
    strata = strata_of(scans, readings.rows)
    if confound not in strata:
        raise Unavailable(f"The scans do not differ in {confound}, or it is not known.")
    return _cross_validated(scans, readings, strata[confound], seed)


def phenotype_probe(
    scans: datasets.Dataset,
    readings: TokenReadings,
    training: TokenReadings | None,
    column: str,
    seed: int,
) -> dict[str, Any]:
    """How well a phenotype can be predicted from each vector: with probes of other sites, or cross-validated."""
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
        raise Unavailable("It has not the same two classes or more at both sites.")
    train_subjects, subjects = (
        _strings(scans, "subject_id", [each.rows[place] for place in labels])
        for each, labels in ((training, train), (readings, test))
    )
    truth = np.searchsorted(names, list(test.values()))
    found = {}
    for name in tqdm(_vectors(readings), f"Probes of {column}", unit="probe"):
        x, y = (r.values[name].numpy()[list(labels)] for r, labels in ((training, train), (readings, test)))
        prediction = fit_logistic(x, list(train.values()), y, train_subjects)
        answers = np.searchsorted(names, prediction.labels)
        found[name] = {
            **balanced_accuracy_with_interval(truth, answers, subjects, seed),
            "auc": roc_auc(list(test.values()), prediction.scores, prediction.classes),
            "chance": 1 / len(names),
            "n": len(truth),
        }
    return found


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
    """Whether scans find their texts, and texts their scans, by the embeddings of the training."""
    if texts is None:
        raise Unavailable("No texts were given.")
    if not isinstance(model, FmriTokenizerForPreTraining) or model.alignment is None:
        raise Unavailable(
            "The tokenizer was not aligned with texts, or only the part without the alignment was loaded."
        )
    scan_ids = dict(zip(rows, _strings(scans, "scan_id", rows)))
    described = [row for row in rows if scan_ids[row] in texts]
    if len(described) < FEWEST_FOR_RETRIEVAL:
        raise Unavailable(f"{len(described)} of the scans have a text; {FEWEST_FOR_RETRIEVAL} are needed.")
    of_scans = []
    for start in tqdm(range(0, len(described), 16), "Embedding scans", unit="batch"):
        extracted = [extractor(scans[row]) for row in described[start : start + 16]]
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
    """Share of rows whose own column is among the best k; of equals (a text that two scans share), half count."""
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
