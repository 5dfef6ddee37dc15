"""What a frozen language model makes of texts, for the alignment of stage 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .texts import CorpusTexts

__all__ = ["embed_descriptions", "embed_texts", "embed_tokens"]


def embed_descriptions(
    texts: CorpusTexts, scan_ids: Sequence[str], model: Any, tokenizer: Any
) -> torch.Tensor:
    """The embedding of what is said of each scan: the mean over all texts about it.

    The texts about a scan say the same in other words. Of one text alone, how it is worded is most of what its
    embedding differs by from others; no scan tells that, and a contrastive loss learns it by heart.

    Returns
    -------
    torch.Tensor of shape (n_scans, hidden_size), float32, on the CPU
    """
    of_scans = [texts.texts(scan_id) for scan_id in scan_ids]
    embeds = embed_texts(model, tokenizer, [text for each in of_scans for text in each])
    return torch.stack([each.mean(0) for each in embeds.split([len(each) for each in of_scans])])


@torch.inference_mode()
def embed_tokens(model: Any, tokenizer: Any, texts: Sequence[str], n_tokens: int) -> torch.Tensor:
    """Input embeddings of so many tokens of each text, spread over it: (n_texts, n_tokens, hidden_size), float32.

    A text with fewer tokens gives some of them twice.
    """
    chosen = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        chosen.append([ids[position * len(ids) // n_tokens] for position in range(n_tokens)])
    return model.get_input_embeddings()(torch.tensor(chosen, device=model.device)).float().cpu().clone()


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
