"""What the stages are trained on: scans, conversations about them, plain texts, and embeddings of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from ..models.feature_extraction_fmri import FmriFeatureExtractor


class ScanInputs(Dataset):
    """Scans as model inputs, each read and normalised when it is asked for.

    Parameters
    ----------
    dataset : datasets.Dataset or sequence of mappings
        A scan dataset, as `load_scan_dataset` gives it.
    extractor : FmriFeatureExtractor
    rows : sequence of int, optional
        The scans to use, all of them when None.
    text_embeds : torch.Tensor of shape (n_scans, text_embed_dim), optional
        Of the texts that describe these scans, in the order of `rows`.

    Notes
    -----
    An item is a dict of `input_values` (n_rois, n_timepoints), `roi_mask` (n_rois,), `padding_mask`
    (n_timepoints,), and `text_embeds` (text_embed_dim,) if there are any.
    """

    def __init__(
        self,
        dataset: Any,
        extractor: FmriFeatureExtractor,
        rows: Sequence[int] | None = None,
        text_embeds: torch.Tensor | None = None,
    ):
        self.dataset, self.extractor, self.text_embeds = dataset, extractor, text_embeds
        self.rows = list(range(len(dataset))) if rows is None else list(rows)
        if text_embeds is not None and len(text_embeds) != len(self.rows):
            raise ValueError(
                f"`text_embeds` has {len(text_embeds)} rows for {len(self.rows)} scans: give one for each."
            )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        inputs = self.extractor(self.dataset[self.rows[index]])
        item = {name: inputs[name][0] for name in self.extractor.model_input_names}
        return item if self.text_embeds is None else item | {"text_embeds": self.text_embeds[index]}


class ScanConversations(Dataset):
    """A conversation about each scan, and as many plain texts, as examples for `FmriLMCollator`.

    Parameters
    ----------
    scans : ScanInputs
    converse : callable
        Gives the messages about the scan in a row of the dataset. It is called each time the scan is met, so that
        it can draw other words; it should draw with torch, whose random state a resumed training restores.
    plain_texts : datasets.Dataset or sequence of mappings, optional
        With `input_ids`; drawn at random, one for each scan in an epoch.
    """

    def __init__(
        self,
        scans: ScanInputs,
        converse: Callable[[int], list[dict[str, Any]]],
        plain_texts: Any = None,
    ):
        self.scans, self.converse, self.plain_texts = scans, converse, plain_texts

    def __len__(self) -> int:
        return len(self.scans) * (1 if self.plain_texts is None else 2)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index < len(self.scans):
            return {"conversation": self.converse(self.scans.rows[index]), **self.scans[index]}
        drawn = int(torch.randint(len(self.plain_texts), ()))
        return {"input_ids": self.plain_texts[drawn]["input_ids"]}


def about_scan(turns: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Messages of a conversation about one scan, from its questions and answers.

    Examples
    --------
    >>> about_scan([("What is the sex?", "female")])[1]
    {'role': 'assistant', 'content': 'female'}
    """
    messages: list[dict[str, Any]] = []
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    messages[0]["content"] = [{"type": "fmri"}, {"type": "text", "text": messages[0]["content"]}]
    return messages


@torch.inference_mode()
def embed_texts(model: Any, tokenizer: Any, texts: Sequence[str], batch_size: int = 32) -> torch.Tensor:
    """What a language model makes of texts: the mean of each text's last hidden states.

    Parameters
    ----------
    model : PreTrainedModel
        With or without a language modelling head.
    tokenizer : PreTrainedTokenizerBase
        With a padding token. Texts are cut to the length that the model takes.
    texts : sequence of str
    batch_size : int

    Returns
    -------
    torch.Tensor of shape (n_texts, hidden_size), float32, on the CPU
    """
    longest = getattr(model.config, "max_position_embeddings", None)
    embedded = []
    for start in range(0, len(texts), batch_size):
        batch = tokenizer(
            list(texts[start : start + batch_size]),
            padding=True,
            padding_side="right",
            truncation=longest is not None,
            max_length=longest,
            return_tensors="pt",
        ).to(model.device)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        hidden = model.base_model(**inputs).last_hidden_state.float()
        mask = batch["attention_mask"][..., None]
        embedded.append(((hidden * mask).sum(1) / mask.sum(1)).cpu())
    return torch.cat(embedded).clone()


__all__ = ["ScanConversations", "ScanInputs", "about_scan", "embed_texts"]
