"""A cache on disk for outputs of extractors and frozen models.

The key of an entry is a hash of everything that it is computed from (weights, options, values of the scans), so a
change of any of them leads to a new entry. Arrays are memory-mapped: scans need not fit into memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from huggingface_hub import constants
from numpy.lib.format import open_memmap
from tqdm.auto import tqdm

from ..files import content_hash, weights_hash, write_json
from ..models.feature_extraction_fmri import FmriFeatureExtractor
from ..models.modeling_fmri_lm import FmriLMForCausalLM
from ..models.scan_errors import ScanError

IGNORED = -100  # a label that no loss counts, such as the code of a token that was not observed
RECORD = "record.json"  # written last: an entry without it is incomplete
# For each scan in order: arrays by name, or the reason why there are none.
Rows = Iterable[Mapping[str, np.ndarray] | str]


@dataclass(eq=False)
class StoredScans:
    """Arrays with a row for each scan, read from disk on access.

    Attributes
    ----------
    arrays : mapping of str to numpy.ndarray
        Memory-mapped, all of length n_scans.
    scan_ids : sequence of str
        Ids of the rows.
    failures : mapping of str to str
        Reasons by `scan_id` of scans that could not be read; their rows must not be used.
    key : str
        Hash of everything that the arrays are computed from.
    """

    arrays: Mapping[str, np.ndarray]
    scan_ids: Sequence[str]
    failures: Mapping[str, str]
    key: str

    def __post_init__(self):
        self.index = {scan_id: i for i, scan_id in enumerate(self.scan_ids)}

    def __len__(self) -> int:
        return len(self.scan_ids)

    def row(self, scan_id: str) -> dict[str, torch.Tensor]:
        """Return the arrays of one scan, without a batch axis."""
        return {name: values[0] for name, values in self.batch([scan_id]).items()}

    def batch(self, scan_ids: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return the arrays of several scans, in this order."""
        rows = [self.index[scan_id] for scan_id in scan_ids]
        return {name: torch.from_numpy(values[rows]) for name, values in self.arrays.items()}


class FeatureStore:
    """A folder of entries that several processes may read and fill at the same time.

    Parameters
    ----------
    folder : path, optional
        The cache folder of Hugging Face when None.
    """

    def __init__(self, folder: str | os.PathLike | None = None):
        self.folder = Path(folder or Path(constants.HF_HOME) / "fmri_lm_hf" / "features")

    def extract(self, scans: Any, extractor: FmriFeatureExtractor, rows: Sequence[int]) -> StoredScans:
        """Extract model inputs of scans: `input_values`, `roi_mask` and `padding_mask`.

        Parameters
        ----------
        scans : datasets.Dataset
            A scan dataset.
        extractor : FmriFeatureExtractor
        rows : sequence of int
            Scans to extract. Those that the extractor refuses are listed in `failures`.
        """
        # by content, not by path or fingerprint: a dataset that is moved or loaded anew finds its entries again
        columns = ("bold", "roi_mask", "sample_mask", "t_r")
        identity = [
            content_hash(*(np.asarray(scan[name]) for name in columns if scan.get(name) is not None))
            for scan in (scans[row] for row in tqdm(rows, desc="Identifying scans", unit="scan"))
        ]
        names = list(scans["scan_id"])
        ids = [str(names[row]) for row in rows]

        def extracted() -> Rows:
            for row in tqdm(rows, desc="Reading scans", unit="scan"):
                try:
                    inputs = extractor(scans[row])
                except ScanError as error:
                    yield str(error)
                else:
                    yield {name: inputs[name][0].numpy() for name in extractor.model_input_names}

        return self._entry("inputs", [extractor.to_dict(), ids, identity], ids, extracted)

    def encode(
        self,
        inputs: StoredScans,
        model: FmriLMForCausalLM,
        window: Mapping[str, Any] | None = None,
        with_codes: bool = False,
        batch_size: int = 32,
    ) -> StoredScans:
        """Encode scans with a model's frozen tokenizer: `fmri_features`, `roi_mask` and `padding_mask`.

        Parameters
        ----------
        inputs : StoredScans
            Result of `extract`.
        model : FmriLMForCausalLM
            Its tokenizer runs in evaluation mode, on the model's device; the model is not changed.
        window : mapping, optional
            ``{"shortest": least share, "seed": int}``: only a random time window of each scan is encoded.
        with_codes : bool, default=False
            Also return the codes of the tokens as `fmri_labels`; `IGNORED` where nothing was observed.
        batch_size : int
        """
        ids = [scan_id for scan_id in inputs.scan_ids if scan_id not in inputs.failures]
        tokenizer, config = model.fmri_tokenizer, model.config
        if with_codes and (tokenizer is None or tokenizer.quantizer is None):
            raise ValueError(
                "Next codes cannot be predicted: the tokenizer has no codebook. Set `fmri_loss_weight: 0`."
            )

        @torch.inference_mode()
        def encoded() -> Rows:
            was_training = model.training
            model.eval()
            title = "Encoding scans" if window is None else f"Encoding windows, seed {window['seed']}"
            for start in tqdm(range(0, len(ids), batch_size), desc=title, unit="batch"):
                batch_ids = ids[start : start + batch_size]
                batch = inputs.batch(batch_ids)
                if window is not None:  # in place is safe: `batch` has copied the rows of the memory map
                    batch["padding_mask"] &= draw_windows(batch["padding_mask"], batch_ids, **window)
                on_device = {name: values.to(model.device) for name, values in batch.items()}
                values = {
                    # float32 even if the tokenizer computes in bfloat16, which numpy does not have
                    "fmri_features": model.get_fmri_features(**on_device).float(),
                    "roi_mask": batch["roi_mask"],
                    "padding_mask": batch["padding_mask"],
                }
                if with_codes:
                    tokens = tokenizer.encode(**on_device)
                    values["fmri_labels"] = tokens.fmri_codes.clone()
                    values["fmri_labels"][~tokens.token_mask] = IGNORED
                arrays = {name: each.cpu().numpy() for name, each in values.items()}
                yield from ({name: each[i] for name, each in arrays.items()} for i in range(len(batch_ids)))
            model.train(was_training)

        made_from = [
            None if tokenizer is None else weights_hash(tokenizer),
            config.fmri_config.to_diff_dict(),
        ]
        made_from += [config.scan_tokens, config.fmri_embedding_source, with_codes]
        return self._entry("features", [*made_from, dict(window or {}), inputs.key, ids], ids, encoded)

    def encode_noise(self, n: int, model: FmriLMForCausalLM, with_codes: bool = False, seed: int = 0) -> StoredScans:
        """Encode `n` scans of white noise."""
        n_rois, n_timepoints = model.config.fmri_config.n_rois, model.config.fmri_config.n_timepoints
        noise = np.random.default_rng(seed).normal(size=(n, n_rois, n_timepoints))
        arrays = {
            "input_values": noise.astype(np.float32),
            "roi_mask": np.ones((n, n_rois), dtype=bool),
            "padding_mask": np.ones((n, n_timepoints), dtype=bool),
        }
        key = content_hash("noise", n, seed, n_rois, n_timepoints)
        inputs = StoredScans(arrays, [f"noise-{i}" for i in range(n)], {}, key)
        return self.encode(inputs, model, with_codes=with_codes)

    def embed(self, texts: Sequence[str], made_from: Any, embed: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return embeddings of texts (n_texts, size): stored ones, or those of the function `embed`.

        Parameters
        ----------
        texts : sequence of str
        made_from : JSON value
            Identifies the model and its weights.
        embed : callable
            Returns the embeddings, one row for each text.
        """

        def embedded() -> Rows:
            return ({"text_embeds": values} for values in embed().numpy())

        names = [str(i) for i in range(len(texts))]
        stored = self._entry("texts", [made_from, list(texts)], names, embedded)
        return torch.from_numpy(np.array(stored.arrays["text_embeds"]))

    def _entry(self, kind: str, made_from: Sequence[Any], ids: Sequence[str], make: Callable[[], Rows]) -> StoredScans:
        """Return an entry, made if it does not exist; a second process waits for the first one to make it."""
        key = content_hash(kind, *made_from)
        folder = self.folder / f"{kind}-{key}"
        if not (folder / RECORD).is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / f".{kind}-{key}.lock"):
                if not (folder / RECORD).is_file():  # another process may have made it while this one waited
                    self._make(folder, ids, make())
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in record["arrays"]}
        return StoredScans(arrays, ids, record["failures"], key)

    def _make(self, folder: Path, ids: Sequence[str], rows: Rows) -> None:
        """Write an entry into a temporary folder, which is renamed when it is complete."""
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=self.folder))
        try:
            arrays: dict[str, np.memmap] = {}
            failures = {}
            for i, row in enumerate(rows):
                if isinstance(row, str):
                    failures[ids[i]] = row
                    continue
                for name, values in row.items():
                    if name not in arrays:
                        shape = (len(ids), *values.shape)
                        arrays[name] = open_memmap(partial / f"{name}.npy", "w+", values.dtype, shape)
                    arrays[name][i] = values
            for values in arrays.values():
                values.flush()
            write_json({"arrays": list(arrays), "failures": failures}, partial / RECORD)
            # Renaming within a file system is atomic, so readers find a complete entry or none. The target must not
            # exist, but a killed process may have left one without a record.
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)
        except BaseException:  # Ctrl-C as well: a partial entry may have gigabytes
            shutil.rmtree(partial, ignore_errors=True)
            raise


def draw_windows(padding_mask: torch.Tensor, scan_ids: Sequence[str], shortest: float, seed: int) -> torch.Tensor:
    """Draw a time window of each scan, a function of seed and `scan_id`: another sample of the subject's connectivity.

    Parameters
    ----------
    padding_mask : torch.BoolTensor of shape (n_scans, n_timepoints)
        True where a scan was observed.
    scan_ids : sequence of str
    shortest : float
        Least share of a scan's time points that its window holds.
    seed : int

    Returns
    -------
    torch.BoolTensor of shape (n_scans, n_timepoints)
        True inside the window.
    """
    windows = torch.zeros_like(padding_mask)
    for i, scan_id in enumerate(scan_ids):
        # seeded by the id, not by the row: a scan keeps its window when other scans are added or left out
        draw = np.random.default_rng([seed, *hashlib.blake2b(scan_id.encode(), digest_size=8).digest()])
        observed = padding_mask[i].nonzero().flatten()
        # at least two points, since one has no correlation
        n_kept = max(2, round(len(observed) * draw.uniform(shortest, 1.0)))
        first = int(draw.integers(len(observed) - n_kept + 1)) if n_kept < len(observed) else 0
        windows[i, observed[first : first + n_kept]] = True
    return windows
