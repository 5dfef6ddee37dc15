"""What a tokenizer says of scans, and of parts of them, as vectors that can be compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from ..descriptors.fisher_z import fisher_z_connectivity
from ..models.connectivity import connectivity_profiles, unit_series
from ..models.feature_extraction_fmri import FmriFeatureExtractor
from ..models.modeling_fmri_tokenizer import FmriTokenizer
from ..models.scan_images import ScanError

__all__ = ["MAX_SIZE", "TokenReadings", "part_of", "read_tokens"]

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
