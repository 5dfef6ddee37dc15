"""What a tokenizer's tokens are worth: codes in use, what they keep of scans, stability, what can be read from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from fmri_lm_hf.descriptors.connectivity import fisher_z_connectivity
from fmri_lm_hf.evaluation.baselines import fit_logistic
from fmri_lm_hf.evaluation.confounds import strata_of, predictability
from fmri_lm_hf.evaluation.design import training_records
from fmri_lm_hf.evaluation.features import Unavailable
from fmri_lm_hf.evaluation.metrics import balanced_accuracy, roc_auc
from fmri_lm_hf.evaluation.tasks import class_name, is_missing
from fmri_lm_hf.evaluation.uncertainty import bootstrap_by_subject
from fmri_lm_hf.models.feature_extraction_fmri import FmriFeatureExtractor
from fmri_lm_hf.models.fmri_transformer import connectivity_profiles, unit_series
from fmri_lm_hf.models.modeling_fmri_tokenizer import FmriTokenizer
from fmri_lm_hf.models.modeling_fmri_tokenizer_pretraining import FmriTokenizerForPreTraining
from fmri_lm_hf.models.scan_errors import ScanError
from fmri_lm_hf.scans.likeness import content_sketch

# What a tokenizer says of scans, and of parts of them, as vectors that can be compared.

MAX_SIZE = 65_536  # values of a scan that are kept as they are
N_TRIPLES = 20_000  # of ROIs, at which co-skewness is compared
FEWEST_POINTS = 20  # of a part of a scan

# A row of a scan dataset -> the part of it that is read, or None where there is too little of it
Part = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]


@dataclass
class TokenReadings:
    """Scans as a tokenizer reads them.

    Attributes
    ----------
    rows : list of int
        Of the scan dataset; one row of each of the values.
    failures : dict of str to str
        Scans that could not be read, and why.
    values : dict of str to torch.Tensor
        Vectors, (n_scans, size), zero where nothing was observed, and of more than `MAX_SIZE` values a sketch:
        ``tokens`` (the features of all tokens), ``codes`` (the vectors of their codes), ``connectivity`` (Fisher z of
        the pairs of ROIs). With them ``fmri_codes`` and ``token_mask`` as `FmriTokenizer.encode` gives them.

        Of whole scans also what is left of them: ``unexplained_signal`` and ``unexplained_profiles`` (n_scans,),
        squared error in parts of the variance; ``edges`` and ``coskewness`` of inputs (n_scans, n), correlations of
        pairs and co-skewness of triples of ROIs, NaN where one is missing, and those of their reconstructions,
        ``edges_again`` and ``coskewness_again``. What the tokenizer has no such thing of is not there.
    """

    rows: list[int]
    failures: dict[str, str]
    values: dict[str, torch.Tensor]


def part_of(start: float = 0.0, stop: float = 1.0, every: int = 1) -> Part:
    """The time points of a scan from one share of its length to another, or every second, third, ... of them."""

    def cut(scan: Mapping[str, Any]) -> Mapping[str, Any] | None:
        n = len(scan["bold"])
        points = slice(round(start * n), round(stop * n), every)
        part = {**scan, "bold": np.asarray(scan["bold"])[points]}
        n_observed = part["n_timepoints"] = len(part["bold"])
        if scan.get("sample_mask") is not None:
            part["sample_mask"] = np.asarray(scan["sample_mask"], dtype=bool)[points]
            n_observed = int(part["sample_mask"].sum())
        if scan.get("t_r") is not None:
            part["t_r"] = every * scan["t_r"]
        return part if n_observed >= FEWEST_POINTS else None

    return cut


@torch.inference_mode()
def read_tokens(
    model: FmriTokenizer,
    extractor: FmriFeatureExtractor,
    scans: datasets.Dataset,
    rows: Sequence[int],
    part: Part | None = None,
    title: str = "Reading scans",
    batch_size: int = 16,
) -> TokenReadings:
    """Read scans of a scan dataset, or a part of each; without `part`, measure what the tokenizer keeps of them."""
    usable: list[int] = []
    failures: dict[str, str] = {}
    batches: list[dict[str, torch.Tensor]] = []
    for start in tqdm(range(0, len(rows), batch_size), title, unit="batch"):
        extracted, connectivity = [], []
        for row in rows[start : start + batch_size]:
            scan = scans[row]
            try:
                shown = scan if part is None else part(scan)
                if shown is None:
                    raise ScanError(f"it has fewer than {FEWEST_POINTS} observed time points.")
                extracted.append(extractor(shown))
            except ScanError as error:
                failures[str(scan["scan_id"])] = str(error)
                continue
            connectivity.append(_connectivity(shown))
            usable.append(row)
        if extracted:
            inputs = {
                name: torch.cat([each[name] for each in extracted]) for name in extractor.model_input_names
            }
            read = _read(model, {name: each.to(model.device) for name, each in inputs.items()}, part is None)
            batches.append(read | {"connectivity": _sketch(torch.stack(connectivity))})
    if not batches:
        reason = next(iter(failures.values()), "there are none")
        raise ScanError(f"None of {len(rows)} scans can be used: {reason}")
    return TokenReadings(
        usable, failures, {name: torch.cat([b[name] for b in batches]) for name in batches[0]}
    )


def _read(model: FmriTokenizer, inputs: Mapping[str, torch.Tensor], whole: bool) -> dict[str, torch.Tensor]:
    encoded: Any = model.encode(**inputs)
    shown = encoded.token_mask[..., None]
    read = {"tokens": _sketch((encoded.embeddings.float() * shown).flatten(1))}
    if encoded.fmri_codes is not None:
        read["codes"] = _sketch((encoded.quantized.float() * shown).flatten(1))
        read |= {"fmri_codes": encoded.fmri_codes, "token_mask": encoded.token_mask}
        if whole:
            read |= _kept(model, inputs, encoded.fmri_codes, encoded.token_mask)
    return {name: each.cpu() for name, each in read.items()}


def _kept(
    model: FmriTokenizer, inputs: Mapping[str, torch.Tensor], codes: torch.Tensor, token_mask: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What is left of scans in what the tokenizer makes of their codes."""
    signal = inputs["input_values"].float()  # (batch, n_rois, n_timepoints)
    masks = model.complete_masks(
        len(signal), inputs.get("roi_mask"), inputs.get("padding_mask"), signal.device
    )
    roi_mask, padding_mask = masks
    decoded = model.decode(codes, token_mask)
    kept: dict[str, torch.Tensor] = {}

    first, second = torch.triu_indices(signal.shape[1], signal.shape[1], 1)

    def edges(matrices: torch.Tensor) -> torch.Tensor:
        missing = ~(roi_mask[:, first] & roi_mask[:, second])
        return matrices[:, first, second].masked_fill(missing, float("nan"))

    unit = unit_series(signal, padding_mask)
    kept["edges"] = edges(unit @ unit.mT)
    if decoded.connectivity is not None:
        profiles = connectivity_profiles(signal, *masks, model.config.roi_networks)
        n_networks = profiles.shape[-1] - profiles.shape[1]
        seen = roi_mask[:, :, None] & F.pad(roi_mask, (0, n_networks), value=True)[:, None]
        again = decoded.connectivity.float()
        kept["unexplained_profiles"] = _unexplained(profiles, again, seen)
        again = again[..., : signal.shape[1]]
        kept["edges_again"] = edges(again + again.mT)
    if decoded.reconstruction is not None:
        again = decoded.reconstruction.float()
        kept["unexplained_signal"] = _unexplained(signal, again, roi_mask[:, :, None] & padding_mask[:, None])
        unit_again = unit_series(again, padding_mask)
        kept["edges_again"] = edges(unit_again @ unit_again.mT)
        kept["coskewness"] = _coskewness(unit, roi_mask)
        kept["coskewness_again"] = _coskewness(unit_again, roi_mask)
    return kept


def _coskewness(unit: torch.Tensor, roi_mask: torch.Tensor) -> torch.Tensor:
    """Co-skewness of random triples of different ROIs, in parts of what it is for series of length 1."""
    draw = torch.Generator().manual_seed(0)
    chosen = torch.randint(unit.shape[1], (3, N_TRIPLES), generator=draw)
    chosen = chosen[:, (chosen != chosen.roll(1, 0)).all(0)]
    # one scan at a time: all triples of a batch would take gigabytes
    values = torch.stack([each[chosen].prod(0).sum(-1) for each in unit])
    return values.masked_fill(~roi_mask[:, chosen].all(1), float("nan"))


def _unexplained(values: torch.Tensor, again: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Squared error over squared distance from the mean, of what was observed: (n_scans,)."""
    mean = (values * seen).sum((1, 2), keepdim=True) / seen.sum((1, 2), keepdim=True)
    error, variance = (((values - other).square() * seen).sum((1, 2)) for other in (again, mean))
    return error / variance.clamp_min(1e-12)


def _connectivity(scan: Mapping[str, Any]) -> torch.Tensor:
    """Fisher z of the pairs of ROIs, 0 where one is not usable."""
    z = fisher_z_connectivity(np.asarray(scan["bold"]), scan.get("roi_mask"), scan.get("sample_mask"))
    return torch.from_numpy(np.nan_to_num(z[np.triu_indices(len(z), 1)])).float()


def _sketch(values: torch.Tensor) -> torch.Tensor:
    """Rows (n, size); of long ones a count sketch, which keeps their inner products (arXiv 0902.2206)."""
    size = values.shape[1]
    if size <= MAX_SIZE:
        return values
    draw = torch.Generator().manual_seed(size)
    place = torch.randint(MAX_SIZE, (size,), generator=draw).to(values.device)
    sign = (2 * torch.randint(2, (size,), generator=draw) - 1).to(values)
    return values.new_zeros(len(values), MAX_SIZE).index_add_(1, place, values * sign)


# Are the tokens of a person's other scan, or of the other half of one, nearer than those of other people?


def identification(
    first: torch.Tensor,
    second: torch.Tensor,
    subjects: Sequence[str],
    sites: Sequence[str],
    other_subjects: Sequence[str] | None = None,
    other_sites: Sequence[str] | None = None,
) -> dict[str, dict[str, Any]]:
    """How often a measurement's most similar other one is of the same person (fingerprinting [1]_).

    Similarity is the correlation of vectors, less the mean of their set. Both directions are averaged.

    Parameters
    ----------
    first, second : torch.Tensor of shape (n, size), (n_others, size)
        Two sets of measurements; of one set twice, a measurement is not compared with itself.
    subjects, sites : sequence of str of length n
    other_subjects, other_sites : sequence of str of length n_others, optional
        As of `first` where not given.

    Returns
    -------
    dict
        For candidates from ``anywhere`` and, with several sites, ``same_site`` and ``other_sites`` (where a person was
        measured at several): ``rate``, ``chance`` and ``n`` measurements that have a person to be found and others
        beside. Kinds of candidates that nobody has are not there.

    References
    ----------
    .. [1] Finn ES et al. (2015). Functional connectome fingerprinting. Nature Neuroscience 18, 1664-1671.
    """
    whose = [np.asarray(subjects), np.asarray(subjects if other_subjects is None else other_subjects)]
    where = [np.asarray(sites), np.asarray(sites if other_sites is None else other_sites)]
    similar = (_unit(first) @ _unit(second).T).numpy()
    same_person = whose[0][:, None] == whose[1][None]
    same_site = where[0][:, None] == where[1][None]
    differs = ~np.eye(len(similar), dtype=bool) if second is first else np.ones_like(same_person)
    found = {}
    for kind, candidates in (
        ("anywhere", differs),
        ("same_site", differs & same_site),
        ("other_sites", differs & ~same_site),
    ):
        if kind != "anywhere" and same_site.all():
            continue
        hits, chances = [], []
        for values, person, allowed in (
            (similar, same_person, candidates),
            (similar.T, same_person.T, candidates.T),
        ):
            n_candidates, n_right = allowed.sum(1), (allowed & person).sum(1)
            asked = (n_right > 0) & (n_candidates > n_right)
            best = np.where(allowed, values, -np.inf).argmax(1)
            hits += person[np.arange(len(person)), best][asked].tolist()
            chances += (n_right / np.maximum(n_candidates, 1))[asked].tolist()
        if hits:
            n = len(hits) // 2 if second is first else len(hits)
            found[kind] = {"rate": float(np.mean(hits)), "chance": float(np.mean(chances)), "n": n}
    return found


def intraclass_correlation(first: torch.Tensor, second: torch.Tensor) -> dict[str, float | None]:
    """ICC(1, 1) [1]_ of each value over two measurements of the same people, by one-way analysis of variance.

    Parameters
    ----------
    first, second : torch.Tensor of shape (n_people, size)

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


def _unit(values: torch.Tensor) -> torch.Tensor:
    centred = values.double() - values.double().mean(0)
    centred = centred - centred.mean(1, keepdim=True)
    return torch.nn.functional.normalize(centred, dim=1)


def first_two(subjects: Sequence[str]) -> tuple[list[int], list[int]]:
    """Places of the first and of the second measurement of each person who has two."""
    places: dict[str, list[int]] = {}
    for place, subject in enumerate(subjects):
        places.setdefault(subject, []).append(place)
    pairs = [each[:2] for each in places.values() if len(each) > 1]
    return [first for first, _ in pairs], [second for _, second in pairs]


# What can be read from tokens: site and motion, which should not be there, and phenotypes, which should.

VECTORS = ("tokens", "codes", "connectivity")  # the last one is what the others are held against


def left_out(reason: str) -> dict[str, str]:
    """In place of numbers, why there are none."""
    return {"left_out": reason}


def unwanted(
    scans: datasets.Dataset, whole: TokenReadings, training: TokenReadings | None, seed: int
) -> dict[str, Any]:
    """What should not be read from tokens: the site, among all scans, and motion, among those that are measured."""
    found = {}
    for name, readings in (("site", _both(whole, training)), ("motion", whole)):
        levels = strata_of(scans, readings.rows)
        found[name] = (
            _predicted(scans, readings, levels[name], seed)
            if name in levels
            else left_out(f"The scans do not differ in {name}, or it is not known.")
        )
    return found


def _both(whole: TokenReadings, training: TokenReadings | None) -> TokenReadings:
    if training is None:
        return whole
    values = {name: torch.cat([whole.values[name], each]) for name, each in training.values.items()}
    return TokenReadings([*whole.rows, *training.rows], whole.failures | training.failures, values)


def _predicted(
    scans: datasets.Dataset, whole: TokenReadings, levels: Sequence[str | None], seed: int
) -> dict[str, Any]:
    """How well levels can be predicted from each vector, in cross-validation by subject."""
    subjects = of_rows(scans, "subject_id", whole.rows)
    try:
        return {
            name: predictability(whole.values[name].numpy(), levels, subjects, seed)
            for name in tqdm(VECTORS, "Probes", unit="probe")
            if name in whole.values
        }
    except Unavailable as reason:
        return left_out(str(reason))


def phenotypes(
    scans: datasets.Dataset,
    whole: TokenReadings,
    training: TokenReadings | None,
    labels: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    confounds = strata_of(scans, whole.rows)
    columns = list(dict.fromkeys([*labels, *(name for name in ("sex", "age") if name in confounds)]))
    unknown = sorted(set(labels) - set(scans.column_names))
    if unknown:
        raise ValueError(
            f"The scan dataset has no column {', '.join(unknown)}: it has {', '.join(scans.column_names)}."
        )
    found: dict[str, Any] = {}
    for column in columns:
        if training is not None and column != "age":
            found[column] = _of_unseen_site(scans, whole, training, column, seed)
        else:
            levels = confounds.get(column) or [_class(value) for value in _values(scans, column, whole.rows)]
            found[column] = _predicted(scans, whole, levels, seed)
    return found or left_out(
        "No label columns were named, and the scans have no sex and no age that differs."
    )


def _of_unseen_site(
    scans: datasets.Dataset, whole: TokenReadings, training: TokenReadings, column: str, seed: int
) -> dict[str, Any]:
    """Scores of probes that were fitted to other sites' scans."""
    labels = [[_class(value) for value in _values(scans, column, each.rows)] for each in (training, whole)]
    known = [[place for place, label in enumerate(each) if label is not None] for each in labels]
    train, truth = ([each[place] for place in places] for each, places in zip(labels, known))
    if len(set(train)) < 2 or len(set(truth)) < 2 or set(truth) - set(train):
        return left_out("It has not the same two classes or more at both sites.")
    subjects = [
        of_rows(scans, "subject_id", np.array(each.rows)[places].tolist())
        for each, places in zip((training, whole), known)
    ]
    found = {}
    for name in tqdm([name for name in VECTORS if name in whole.values], f"Probes of {column}", unit="probe"):
        x, y = (each.values[name].numpy()[places] for each, places in zip((training, whole), known))
        told = fit_logistic(x, train, y, subjects[0])
        interval = bootstrap_by_subject(_accuracy_on(truth, told.labels), subjects[1], seed=seed)
        found[name] = {
            "balanced_accuracy": interval.estimate,
            "interval": [interval.low, interval.high],
            "auc": roc_auc(truth, told.scores, told.classes),
            "chance": 1 / len(told.classes),
            "n": len(truth),
        }
    return found


def _accuracy_on(
    truth: Sequence[str | None], answers: Sequence[str | None]
) -> Callable[[np.ndarray], float | None]:
    """Balanced accuracy of the scans that are drawn."""
    right, answered = np.array(truth), np.array(answers)
    return lambda drawn: balanced_accuracy(right[drawn], answered[drawn])


def _class(value: Any) -> str | None:
    return None if is_missing(value) else class_name(value)


def _values(scans: datasets.Dataset, column: str, rows: Sequence[int]) -> list[Any]:
    values = list(scans[column])
    return [values[row] for row in rows]


def of_rows(scans: datasets.Dataset, column: str, rows: Sequence[int]) -> list[str]:
    return [str(value) for value in _values(scans, column, rows)]


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
