"""What a pretrained language model writes of itself, to be learnt again while it learns to read scans.

A model that is trained on questions about scans alone loses its language. No corpus is at hand that would stand for
what it was trained on, but the model itself is: texts sampled from it before the training keep it where it was
(pseudorehearsal; Robins 1995, Connection Science 7, 123-146).
"""

from __future__ import annotations

from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedModel, set_seed

from .chat_form import ChatForm

__all__ = ["own_texts"]


@torch.inference_mode()
def own_texts(
    language_model: PreTrainedModel,
    tokenizer: Any,
    n: int,
    n_tokens: int = 96,
    seed: int = 0,
    batch_size: int = 64,
) -> list[list[int]]:
    """Texts that a language model writes with nothing to go on, as token ids.

    Half of them are conversations, which begin as the chat template begins a user's turn; half follow an empty line.

    Parameters
    ----------
    language_model : PreTrainedModel
    tokenizer : PreTrainedTokenizerBase
        Its own, with a chat template.
    n : int
    n_tokens : int, default=96
        Length of each text, without its beginning.
    seed : int, default=0
    batch_size : int, default=64
        Texts that are written at once.

    Returns
    -------
    list of list of int
    """
    language_model.eval()
    set_seed(seed)
    # nothing ends a text early, since what follows the end of a turn is an answer to it; and a placeholder of a scan
    # is no text
    sampling = GenerationConfig(
        do_sample=True,
        top_k=0,
        max_new_tokens=n_tokens,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=tokenizer.convert_tokens_to_ids(["<fmri>"]),
    )
    beginnings = [
        list(ChatForm.of(tokenizer).before),
        tokenizer("\n\n", add_special_tokens=False)["input_ids"],
    ]
    texts: list[list[int]] = []
    with tqdm(total=n, desc="Texts of the language model's own", unit="text") as progress:
        for number, beginning in enumerate(beginnings):
            left = (n + number) // 2
            while left > 0:
                size = min(batch_size, left)
                ids = torch.tensor([beginning] * size, device=language_model.device)
                written = language_model.generate(
                    ids, attention_mask=torch.ones_like(ids), generation_config=sampling
                )
                texts += written.tolist()
                left -= size
                progress.update(size)
    return texts
