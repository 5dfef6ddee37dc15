"""What extractors and frozen models say of scans and texts: computed once, kept on disk, never stale.

An entry is found by the hash of all that it was made from (weights, options, the scans' own values), so that a change
of any of them is another entry. Arrays are memory-mapped: training on more scans than fit into memory is no different.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
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

IGNORED = -100  # a label that no loss counts: the code of a token that was not observed
RECORD = "record.json"  # written last: an entry without it is not complete


class StoredScans:
    """Arrays with one row for each scan, read from disk when they are asked for.

    Parameters
    ----------
    arrays : mapping of str to numpy.ndarray
        Memory-mapped, all of length n_scans.
    scan_ids : sequence of str
        Whose row each is.
    failures : mapping of str to str
        Scans that could not be read, and why; their rows are not to be used.
    key : str
        Hash of what the arrays were made from.
    """

    def __init__(
        self, arrays: Mapping[str, np.ndarray], scan_ids: Sequence[str], failures: Mapping[str, str], key: str
    ):
        self.arrays, self.scan_ids, self.failures, self.key = arrays, list(scan_ids), failures, key
        self.index = {scan_id: i for i, scan_id in enumerate(self.scan_ids)}

    def __len__(self) -> int:
        return len(self.scan_ids)

    def row(self, scan_id: str) -> dict[str, torch.Tensor]:
        """The arrays of one scan, without a batch axis."""
        i = self.index[scan_id]
        return {name: torch.from_numpy(np.array(values[i])) for name, values in self.arrays.items()}

    def batch(self, scan_ids: Sequence[str]) -> dict[str, torch.Tensor]:
        """The arrays of several scans, in the order in which they are named."""
        rows = [self.index[scan_id] for scan_id in scan_ids]
        return {name: torch.from_numpy(values[rows]) for name, values in self.arrays.items()}


class FeatureStore:
    """A folder of entries that several processes may read and fill at once.

    Parameters
    ----------
    folder : path, optional
        In the cache folder of Hugging Face when None.
    """

    def __init__(self, folder: str | os.PathLike | None = None):
        self.folder = Path(folder or Path(constants.HF_HOME) / "fmri_lm_hf" / "features")

    def extract(self, scans: Any, extractor: FmriFeatureExtractor, rows: Sequence[int]) -> StoredScans:
        """Model inputs of scans: `input_values`, `roi_mask` and `padding_mask`.

        Parameters
        ----------
        scans : datasets.Dataset
            A scan dataset.
        extractor : FmriFeatureExtractor
        rows : sequence of int
            The scans that are wanted. One that the extractor refuses is listed in `failures`.
        """
        read_from = ("bold", "roi_mask", "sample_mask", "t_r")
        identity = [
            content_hash(*(np.asarray(scan[name]) for name in read_from if scan.get(name) is not None))
            for scan in (scans[row] for row in tqdm(rows, desc="Identifying scans", unit="scan"))
        ]
        names = list(scans["scan_id"])
        ids = [str(names[row]) for row in rows]

        def extracted() -> Iterable[tuple[int, dict[str, np.ndarray] | str]]:
            for i, row in enumerate(tqdm(rows, desc="Reading scans", unit="scan")):
                try:
                    inputs = extractor(scans[row])
                except ScanError as error:
                    yield i, str(error)
                else:
                    yield i, {name: inputs[name][0].numpy() for name in extractor.model_input_names}

        return self._entry("inputs", [extractor.to_dict(), ids, identity], ids, extracted)

    def encode(
        self,
        inputs: StoredScans,
        model: FmriLMForCausalLM,
        window: Mapping[str, Any] | None = None,
        with_codes: bool = False,
        batch_size: int = 32,
    ) -> StoredScans:
        """What the frozen side of a model says of scans: `fmri_features`, `roi_mask` and `padding_mask`.

        Parameters
        ----------
        inputs : StoredScans
            From `extract`.
        model : FmriLMForCausalLM
            Only its tokenizer runs, where it is, in evaluation mode; nothing of the model is changed.
        window : mapping, optional
            ``{"shortest": least share, "seed": int}``: only a random window in time of each scan is seen.
        with_codes : bool, default=False
            Keep the codes of the tokens too, as `fmri_labels`; `IGNORED` where nothing was observed.
        batch_size : int
        """
        ids = [scan_id for scan_id in inputs.scan_ids if scan_id not in inputs.failures]
        tokenizer, config = model.fmri_tokenizer, model.config
        if with_codes and (tokenizer is None or tokenizer.quantizer is None):
            raise ValueError("Codes are to be predicted, but the tokenizer of this model has no codebook.")

        @torch.inference_mode()
        def encoded() -> Iterable[tuple[int, dict[str, np.ndarray] | str]]:
            was_training = model.training
            model.eval()
            title = "Tokens of the scans" if window is None else f"The same in windows, seed {window['seed']}"
            for start in tqdm(range(0, len(ids), batch_size), desc=title, unit="batch"):
                of_batch = ids[start : start + batch_size]
                batch = inputs.batch(of_batch)
                if window is not None:
                    batch["padding_mask"] &= draw_windows(batch["padding_mask"], of_batch, **window)
                there = {name: values.to(model.device) for name, values in batch.items()}
                told = {
                    "fmri_features": model.get_fmri_features(**there).float(),
                    "roi_mask": batch["roi_mask"],
                    "padding_mask": batch["padding_mask"],
                }
                if with_codes:
                    said = tokenizer.encode(**there)
                    told["fmri_labels"] = said.fmri_codes.clone()
                    told["fmri_labels"][~said.token_mask] = IGNORED
                arrays = {name: values.cpu().numpy() for name, values in told.items()}
                for i in range(len(of_batch)):
                    yield start + i, {name: values[i] for name, values in arrays.items()}
            model.train(was_training)

        read_by = [None if tokenizer is None else weights_hash(tokenizer), config.fmri_config.to_diff_dict()]
        read_by += [config.scan_tokens, config.fmri_embedding_source, with_codes]
        return self._entry("features", [*read_by, dict(window or {}), inputs.key, ids], ids, encoded)

    def encode_noise(
        self, n: int, model: FmriLMForCausalLM, with_codes: bool = False, seed: int = 0
    ) -> StoredScans:
        """The same for `n` scans of nothing but white noise."""
        config = model.config.fmri_config
        ids = [f"noise-{i}" for i in range(n)]

        def drawn() -> Iterable[tuple[int, dict[str, np.ndarray] | str]]:
            draw = np.random.default_rng(seed)
            for i in range(n):
                yield (
                    i,
                    {
                        "input_values": draw.normal(size=(config.n_rois, config.n_timepoints)).astype(
                            np.float32
                        ),
                        "roi_mask": np.ones(config.n_rois, dtype=bool),
                        "padding_mask": np.ones(config.n_timepoints, dtype=bool),
                    },
                )

        made_from = [n, seed, config.n_rois, config.n_timepoints]
        return self.encode(self._entry("noise", made_from, ids, drawn), model, with_codes=with_codes)

    def embed(self, texts: Sequence[str], made_from: Any, embed: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Embeddings of texts (n_texts, size), by the function `embed` unless they are there already.

        Parameters
        ----------
        texts : sequence of str
        made_from : JSON value
            Tells the model and its weights.
        embed : callable
            Gives the embeddings, one row for each text.
        """
        names = [str(i) for i in range(len(texts))]

        def embedded() -> Iterable[tuple[int, dict[str, np.ndarray] | str]]:
            for i, values in enumerate(embed().numpy()):
                yield i, {"text_embeds": values}

        stored = self._entry("texts", [made_from, list(texts)], names, embedded)
        return torch.from_numpy(np.array(stored.arrays["text_embeds"]))

    def _entry(
        self,
        kind: str,
        made_from: Sequence[Any],
        ids: Sequence[str],
        make: Callable[[], Iterable[tuple[int, dict[str, np.ndarray] | str]]],
    ) -> StoredScans:
        """An entry of the store, made if it is not there; a second process waits for the one that makes it."""
        key = content_hash(kind, *made_from)
        folder = self.folder / f"{kind}-{key}"
        if not (folder / RECORD).is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / f".{kind}-{key}.lock"):
                if not (folder / RECORD).is_file():
                    self._make(folder, len(ids), ids, make())
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in record["arrays"]}
        return StoredScans(arrays, ids, record["failures"], key)

    def _make(
        self,
        folder: Path,
        n: int,
        ids: Sequence[str],
        rows: Iterable[tuple[int, dict[str, np.ndarray] | str]],
    ) -> None:
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=self.folder))
        try:
            arrays: dict[str, np.memmap] = {}
            failures = {}
            for i, made in rows:
                if isinstance(made, str):
                    failures[ids[i]] = made
                    continue
                for name, values in made.items():
                    if name not in arrays:
                        arrays[name] = open_memmap(
                            partial / f"{name}.npy", mode="w+", dtype=values.dtype, shape=(n, *values.shape)
                        )
                    arrays[name][i] = values
            for values in arrays.values():
                values.flush()
            write_json({"arrays": list(arrays), "failures": failures}, partial / RECORD)
            shutil.rmtree(folder, ignore_errors=True)  # what a killed process may have left
            os.replace(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def draw_windows(
    padding_mask: torch.Tensor, scan_ids: Sequence[str], shortest: float, seed: int
) -> torch.Tensor:
    """Random windows in time, a function of seed and scan alone: another sample of each person's connectivity.

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
        draw = np.random.default_rng([seed, *hashlib.blake2b(scan_id.encode(), digest_size=8).digest()])
        observed = padding_mask[i].nonzero().flatten()
        n_kept = max(2, round(len(observed) * draw.uniform(shortest, 1.0)))
        first = int(draw.integers(len(observed) - n_kept + 1)) if n_kept < len(observed) else 0
        windows[i, observed[first : first + n_kept]] = True
    return windows
