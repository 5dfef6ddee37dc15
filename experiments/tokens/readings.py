"""Encode scans with a tokenizer: vectors of tokens, codes and connectivity, and reconstructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from fmri_lm_hf.descriptors.connectivity import fisher_z_connectivity
from fmri_lm_hf.models.feature_extraction_fmri import FmriFeatureExtractor
from fmri_lm_hf.models.fmri_transformer import connectivity_profiles, unit_series
from fmri_lm_hf.models.modeling_fmri_tokenizer import FmriTokenizer
from fmri_lm_hf.models.scan_errors import ScanError

MAX_SIZE = 65_536  # longer vectors of a scan are sketched
N_TRIPLES = 20_000  # of ROIs, for which co-skewness is computed
BATCH = 16
FEWEST_POINTS = 20  # observed time points of a part of a scan


@dataclass(frozen=True)
class Part:
    """Time points of a scan: from one share of its length to another, or every second, third, ... of them."""

    start: float = 0.0
    stop: float = 1.0
    every: int = 1

    def of(self, scan: Mapping[str, Any]) -> dict[str, Any]:
        """Cut this part from a row of a scan dataset.

        Raises
        ------
        ScanError
            When it has too few observed time points.
        """
        n = len(scan["bold"])
        points = slice(round(self.start * n), round(self.stop * n), self.every)
        bold = np.asarray(scan["bold"])[points]
        part = {**scan, "bold": bold, "n_timepoints": len(bold)}
        n_observed = len(bold)
        if scan.get("sample_mask") is not None:
            part["sample_mask"] = np.asarray(scan["sample_mask"], dtype=bool)[points]
            n_observed = int(part["sample_mask"].sum())
        if scan.get("t_r") is not None:
            # without this the extractor would resample every second volume as if none were missing
            part["t_r"] = self.every * scan["t_r"]
        if n_observed < FEWEST_POINTS:
            raise ScanError(f"the part has {n_observed} observed time points, expected at least {FEWEST_POINTS}.")
        return part


WHOLE = Part()


@dataclass
class TokenReadings:
    """What a tokenizer reads of scans.

    Attributes
    ----------
    rows : list of int
        Of the scan dataset; one row of each of the values.
    failures : dict of str to str
        Scans that could not be read, and why.
    values : dict of str to torch.Tensor
        Vectors of shape (n_scans, size), zero where nothing was observed, sketched where they have more than
        `MAX_SIZE` values: ``tokens`` (features of all tokens), ``codes`` (vectors of their codes), ``connectivity``
        (Fisher z of the pairs of ROIs). Also ``fmri_codes`` and ``token_mask`` from `FmriTokenizer.encode`.

        For whole scans also ``unexplained_signal`` and ``unexplained_profiles`` (n_scans,): squared error of the
        reconstruction over the variance; ``edges`` and ``coskewness`` (n_scans, n): correlations of pairs and
        co-skewness of triples of ROIs, NaN where one is missing; ``edges_again`` and ``coskewness_again``: those of
        the reconstructions. What the tokenizer does not reconstruct is absent.
    """

    rows: list[int]
    failures: dict[str, str]
    values: dict[str, torch.Tensor]

    def only(self, rows: Sequence[int]) -> TokenReadings:
        """Select the readings of some of the rows, in their order."""
        places = [self.rows.index(row) for row in rows]
        return TokenReadings(list(rows), self.failures, {name: x[places] for name, x in self.values.items()})

    def followed_by(self, other: TokenReadings) -> TokenReadings:
        """Append the readings of further scans, for the values that `other` has."""
        values = {name: torch.cat([self.values[name], x]) for name, x in other.values.items()}
        return TokenReadings([*self.rows, *other.rows], self.failures | other.failures, values)


@torch.inference_mode()
def read_tokens(
    model: FmriTokenizer,
    extractor: FmriFeatureExtractor,
    scans: datasets.Dataset,
    rows: Sequence[int],
    part: Part | None = None,
    title: str = "Reading scans",
) -> TokenReadings:
    """Read scans of a scan dataset, or a part of each; without `part`, also measure their reconstructions."""
    usable: list[int] = []
    failures: dict[str, str] = {}
    batches: list[dict[str, torch.Tensor]] = []
    for start in tqdm(range(0, len(rows), BATCH), title, unit="batch"):
        extracted, connectivity = [], []
        for row in rows[start : start + BATCH]:
            scan = scans[row]
            try:
                measured = scan if part is None else part.of(scan)
                extracted.append(extractor(measured))
            except ScanError as error:
                failures[str(scan["scan_id"])] = str(error)
                continue
            connectivity.append(_connectivity(measured))
            usable.append(row)
        if extracted:
            inputs = batch_inputs(model, extractor, extracted)
            values = _read(model, inputs, with_reconstruction=part is None)
            batches.append(values | {"connectivity": _sketch(torch.stack(connectivity))})
    if not batches:
        reason = next(iter(failures.values()), "there are none")
        raise ScanError(f"None of {len(rows)} scans can be used: {reason}")
    return TokenReadings(usable, failures, {name: torch.cat([b[name] for b in batches]) for name in batches[0]})


def batch_inputs(
    model: FmriTokenizer, extractor: FmriFeatureExtractor, extracted: Sequence[Mapping[str, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """Batch the extractor's outputs for several scans, on the device of the model."""
    return {
        name: torch.cat([each[name] for each in extracted]).to(model.device) for name in extractor.model_input_names
    }


def _read(
    model: FmriTokenizer, inputs: Mapping[str, torch.Tensor], with_reconstruction: bool
) -> dict[str, torch.Tensor]:
    encoded: Any = model.encode(**inputs)
    # the encoder gives every token a vector, also those of ROIs and time points that were not observed: without zeros
    # in their place, scans with the same gaps would look alike
    shown = encoded.token_mask[..., None]
    values = {"tokens": _sketch((encoded.embeddings.float() * shown).flatten(1))}
    if encoded.fmri_codes is not None:
        values["codes"] = _sketch((encoded.quantized.float() * shown).flatten(1))
        values |= {"fmri_codes": encoded.fmri_codes, "token_mask": encoded.token_mask}
        if with_reconstruction:
            values |= _reconstructed(model, inputs, encoded.fmri_codes, encoded.token_mask)
    return {name: each.cpu() for name, each in values.items()}


def _reconstructed(
    model: FmriTokenizer, inputs: Mapping[str, torch.Tensor], codes: torch.Tensor, token_mask: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Compare scans with their reconstructions from codes."""
    signal = inputs["input_values"].float()  # (batch, n_rois, n_timepoints)
    masks = model.complete_masks(len(signal), inputs.get("roi_mask"), inputs.get("padding_mask"), signal.device)
    roi_mask, padding_mask = masks
    first, second = torch.triu_indices(signal.shape[1], signal.shape[1], 1)

    def edges(matrices: torch.Tensor) -> torch.Tensor:
        missing = ~(roi_mask[:, first] & roi_mask[:, second])
        return matrices[:, first, second].masked_fill(missing, float("nan"))

    decoded = model.decode(codes, token_mask)
    unit = unit_series(signal, padding_mask)  # of norm 1, so that inner products are correlations
    values = {"edges": edges(unit @ unit.mT)}
    if decoded.connectivity is not None:
        profiles = connectivity_profiles(signal, *masks, model.config.roi_networks)
        n_networks = profiles.shape[-1] - profiles.shape[1]  # profiles end with the networks' columns, always seen
        seen = roi_mask[:, :, None] & F.pad(roi_mask, (0, n_networks), value=True)[:, None]
        again = decoded.connectivity.float()
        values["unexplained_profiles"] = _unexplained(profiles, again, seen)
        again = again[..., : signal.shape[1]]
        values["edges_again"] = edges(again + again.mT)  # twice the mean: correlations do not see the factor
    if decoded.reconstruction is not None:
        again = decoded.reconstruction.float()
        seen = roi_mask[:, :, None] & padding_mask[:, None]
        values["unexplained_signal"] = _unexplained(signal, again, seen)
        unit_again = unit_series(again, padding_mask)
        values["edges_again"] = edges(unit_again @ unit_again.mT)
        values["coskewness"] = _coskewness(unit, roi_mask)
        values["coskewness_again"] = _coskewness(unit_again, roi_mask)
    return values


def _coskewness(unit: torch.Tensor, roi_mask: torch.Tensor) -> torch.Tensor:
    """Co-skewness of random triples of different ROIs, of series with norm 1."""
    # the same triples in every scan and its reconstruction
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(unit.shape[1], (3, N_TRIPLES), generator=generator)
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
    # one projection for all vectors of a size: those of different batches could not be compared otherwise
    generator = torch.Generator().manual_seed(size)
    place = torch.randint(MAX_SIZE, (size,), generator=generator).to(values.device)
    sign = (2 * torch.randint(2, (size,), generator=generator) - 1).to(values)
    return values.new_zeros(len(values), MAX_SIZE).index_add_(1, place, values * sign)
