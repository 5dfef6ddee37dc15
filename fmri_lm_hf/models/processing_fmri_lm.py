"""Scans and text to model inputs: `<fmri>` placeholders, scan delimiters, chats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import ProcessorMixin
from transformers.feature_extraction_utils import BatchFeature

from .configuration_fmri_lm import n_pair_tokens
from .feature_extraction_fmri import FmriFeatureExtractor
from .hub_mixin import PublishedOnHub

# For tokenizers without a chat template, such as that of GPT-2.
DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ 'Answer: ' }}"
    "{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ message['content'] + '\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Answer:' }}{% endif %}"
)
# Keywords of `apply_chat_template` for calling the processor; all others are variables of the template.
_CALL_OPTIONS = ("t_r", "padding", "max_length", "truncation")


class FmriLMProcessor(PublishedOnHub, ProcessorMixin):
    """Joins a [`FmriFeatureExtractor`] and a text tokenizer.

    Each `<fmri>` in a text stands for one scan and becomes as many placeholder ids as the scan has tokens, between the
    delimiter ids if there are any.

    Parameters
    ----------
    feature_extractor : FmriFeatureExtractor
    tokenizer : PreTrainedTokenizerBase
        The placeholder is added to it if it has none. Its id may lie outside the vocabulary of the language model.
        A tokenizer without a padding token, such as that of GPT-2, then pads with its end-of-text token.
    chat_template : str, optional
        By default that of the tokenizer; if it has none, a plain question-and-answer form.
    patch_size : int, optional
        Time points of a token, as in the configuration of the fMRI tokenizer; by default the whole length of a scan.
    num_latent_tokens : int, optional
        Latent tokens of a scan, as in the configuration of the fMRI tokenizer.
    fmri_token : str, default="<fmri>"
    fmri_start_ids, fmri_end_ids : list of int, optional
        Token ids before and after the tokens of each scan (textual scan delimiters).
    scan_tokens : list of {"rois", "network_pairs"}, default=["rois"]
        What the tokens of a scan stand for, as in the configuration of the model.
    answers : dict of str to list of str, optional
        As in the configuration of the model, for adapters, which are saved without one.

    Examples
    --------
    >>> inputs = processor(text="<fmri> What is the sex?", fmri="sub-01_bold.nii.gz", t_r=2.0)
    >>> inputs["input_ids"].shape, inputs["input_values"].shape  # 100 ROIs, 160 time points
    (torch.Size([1, 106]), torch.Size([1, 100, 160]))
    """

    def __init__(
        self,
        feature_extractor: FmriFeatureExtractor | None = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        patch_size: int | None = None,
        num_latent_tokens: int | None = None,
        fmri_token: str = "<fmri>",
        fmri_start_ids: Sequence[int] = (),
        fmri_end_ids: Sequence[int] = (),
        scan_tokens: Sequence[str] = ("rois",),
        answers: Mapping[str, Sequence[str]] | None = None,
        **kwargs,
    ):
        template = chat_template or getattr(tokenizer, "chat_template", None) or DEFAULT_CHAT_TEMPLATE
        if feature_extractor is None or tokenizer is None:
            raise ValueError("A processor needs both a `feature_extractor` and a `tokenizer`.")
        super().__init__(feature_extractor, tokenizer, chat_template=template)
        self.patch_size = patch_size or feature_extractor.n_timepoints
        self.num_latent_tokens = num_latent_tokens
        self.fmri_token = fmri_token
        self.fmri_start_ids, self.fmri_end_ids = list(fmri_start_ids), list(fmri_end_ids)
        self.scan_tokens = list(scan_tokens)
        self.answers = None if answers is None else {asked: list(each) for asked, each in answers.items()}
        if "network_pairs" in self.scan_tokens and feature_extractor.atlas is None:
            raise ValueError("Network-pair tokens need a `feature_extractor` with an atlas, which has networks.")
        if fmri_token not in tokenizer.get_vocab():
            # added to the special tokens that the tokenizer has: by default the list would be replaced
            tokenizer.add_special_tokens(
                {"additional_special_tokens": [fmri_token]}, replace_extra_special_tokens=False
            )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self.fmri_token_id = tokenizer.convert_tokens_to_ids(fmri_token)

    @property
    def n_tokens(self) -> int:
        """Tokens of a scan."""
        extractor, n_tokens = self.feature_extractor, 0
        # The same number as `FmriLMConfig.n_scan_tokens`, which a processor without its model cannot ask.
        if "rois" in self.scan_tokens:
            n_patches = extractor.n_timepoints // self.patch_size
            n_tokens += self.num_latent_tokens or extractor.n_rois * n_patches
        if "network_pairs" in self.scan_tokens:
            n_tokens += n_pair_tokens(len(extractor.atlas.network_names))
        return n_tokens

    def network_name_ids(self) -> list[list[int]]:
        """Tokenize the names of the networks of the atlas, as inside a sentence."""
        names = self.feature_extractor.atlas.network_names
        return [self.tokenizer(f" {name}", add_special_tokens=False)["input_ids"] for name in names]

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", *self.feature_extractor.model_input_names]

    def __call__(
        self,
        text: str | list[str] | None = None,
        fmri: Any = None,
        t_r: float | None = None,
        padding: bool | str = True,
        max_length: int | None = None,
        add_special_tokens: bool = True,
        return_tensors: str | None = "pt",
        truncation: bool | str | None = None,
    ) -> BatchFeature:
        """Prepare texts and scans for the model.

        Parameters
        ----------
        text : str or list of str, optional
            Texts with one `<fmri>` for each of their scans.
        fmri : scan or list of scans, optional
            As [`FmriFeatureExtractor`] takes them, in the order of the placeholders.
        t_r : float, optional
            Repetition time of the scans in seconds, if their files do not carry it.
        padding, max_length, add_special_tokens, return_tensors
            As for tokenizers.
        truncation
            Refused, since it could cut a scan.

        Returns
        -------
        BatchFeature
            ``input_ids`` and ``attention_mask`` of shape (batch, n_positions) if there is text, and
            ``input_values`` (n_scans, n_rois, n_timepoints), ``roi_mask`` (n_scans, n_rois) and
            ``padding_mask`` (n_scans, n_timepoints) if there are scans.
        """
        if text is None and fmri is None:
            raise ValueError("Nothing to process: give `text`, `fmri` or both.")
        ids = None
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            ids = [self.tokenizer(string, add_special_tokens=add_special_tokens)["input_ids"] for string in texts]
        return self._join(ids, fmri, t_r, padding, max_length, return_tensors, truncation)

    def _join(
        self, ids, fmri=None, t_r=None, padding=True, max_length=None, return_tensors="pt", truncation=None
    ) -> BatchFeature:
        """Make model inputs from token ids, with one placeholder id for each scan, and from the scans."""
        if truncation:
            raise ValueError("Prompts with scans are not truncated, which could cut a scan. Shorten the text instead.")
        scans = BatchFeature()
        if fmri is not None:
            scans = self.feature_extractor(fmri, t_r=t_r, return_tensors=return_tensors)
        if ids is None:
            return scans
        # Before the ids are expanded, while one placeholder is one scan: the error then counts what the user wrote.
        n_scans = 0 if fmri is None else len(scans["input_values"])
        found = sum(row.count(self.fmri_token_id) for row in ids)
        if found != n_scans:
            raise ValueError(
                f"Found {found} `{self.fmri_token}` in the text but received {n_scans} scan(s). "
                f"Write one `{self.fmri_token}` where each scan belongs."
            )
        ids = [self._expand(row) for row in ids]
        masks = [[1] * len(row) for row in ids]
        encoded = self.tokenizer.pad(
            {"input_ids": ids, "attention_mask": masks},
            padding=padding,
            max_length=max_length,
            return_tensors=return_tensors,
        )
        # `tensor_type=None`: what is in here are tensors, or lists if no tensors were asked for
        return BatchFeature({**encoded, **scans}, tensor_type=None)

    def _expand(self, ids: Sequence[int], values: Sequence[int] | None = None) -> list[int]:
        """Token ids with those of a scan for each placeholder; or values of each id, repeated like it."""
        scan = [*self.fmri_start_ids, *[self.fmri_token_id] * self.n_tokens, *self.fmri_end_ids]
        expanded: list[int] = []
        for token_id, value in zip(ids, ids if values is None else values, strict=True):
            if token_id != self.fmri_token_id:
                expanded.append(value)
            else:
                expanded.extend(scan if values is None else [value] * len(scan))
        return expanded

    def tokenize(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Tokenize a text, each `<fmri>` expanded to the ids that stand for a scan."""
        return self._expand(self.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])

    def apply_chat_template(
        self,
        conversation: list[dict] | list[list[dict]],
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        return_tensors: str | None = "pt",
        *,
        chat_template: str | None = None,
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        sanitize_control_tokens: bool = False,
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs,
    ) -> Any:
        """Render conversations whose messages hold text and scans, and tokenize them if asked.

        A message's content is a string, or a list of blocks ``{"type": "text", "text": ...}`` and
        ``{"type": "fmri", "fmri": scan}``. Options are those of the tokenizer's `apply_chat_template`.

        Parameters
        ----------
        conversation : list of dict, or list of these lists
        add_generation_prompt, tokenize : bool, default=False
        return_tensors : str, optional
        chat_template : str, optional
            In place of the processor's own.
        return_dict : bool, default=True
            Whether tokenizing gives all model inputs, or `input_ids` alone.
        return_assistant_tokens_mask : bool, default=False
            Also return `assistant_masks` of shape (batch, n_positions): 1 for tokens of the assistant, as far as the
            template marks them with ``{% generation %}``.
        sanitize_control_tokens : bool, default=False
            Encode control tokens in the messages as plain text; for chats without scans.
        processor_kwargs : mapping, optional
            Options of calling the processor: `t_r`, `padding`, `max_length`. They may also be given as keywords.
        **kwargs
            `tools`, `documents`, `continue_final_message`, and variables of the template such as `enable_thinking`.

        Returns
        -------
        str, list of str, BatchFeature or torch.Tensor
            Text, or with `tokenize` the result of calling the processor, always with a batch axis.

        Examples
        --------
        >>> conversation = [{"role": "user", "content": [
        ...     {"type": "fmri", "fmri": "sub-01_bold.nii.gz"}, {"type": "text", "text": "What is the sex?"}]}]
        >>> inputs = processor.apply_chat_template(conversation, tokenize=True, add_generation_prompt=True)
        """
        is_batch = bool(conversation) and not isinstance(conversation[0], dict)
        batch: Any = conversation if is_batch else [conversation]
        # Options of the call may stand among the variables of the template, whose names are free.
        calling = dict(processor_kwargs or {})
        calling |= {name: kwargs.pop(name) for name in _CALL_OPTIONS if name in kwargs}
        options = {
            "chat_template": chat_template or self.chat_template,
            "add_generation_prompt": add_generation_prompt,
            "return_assistant_tokens_mask": return_assistant_tokens_mask,
            "sanitize_control_tokens": sanitize_control_tokens,
            **kwargs,
        }
        flat = [[self._as_text(message) for message in messages] for messages in batch]
        if not tokenize:
            if calling:
                raise TypeError(f"Options of tokenizing, but `tokenize` is False: {sorted(calling)}.")
            texts = self.tokenizer.apply_chat_template(flat, tokenize=False, **options)
            return texts if is_batch else texts[0]

        # Scans in the order in which the template writes their messages, which is that of their placeholders.
        blocks = [block for messages in batch for message in messages for block in _blocks(message)]
        scans = [block.get("fmri") for block in blocks if block["type"] == "fmri"]
        if any(scan is None for scan in scans):
            raise ValueError(
                'A content block of type \'fmri\' holds no scan: write {"type": "fmri", "fmri": scan}, '
                "or render the text alone with `tokenize=False`."
            )
        if scans and sanitize_control_tokens:
            raise ValueError(
                f"`sanitize_control_tokens` would also make plain text of the `{self.fmri_token}` where scans belong: "
                "leave it out of chats with scans."
            )
        encoded = self.tokenizer.apply_chat_template(flat, tokenize=True, return_dict=True, **options)
        inputs = self._join(encoded["input_ids"], scans or None, return_tensors=return_tensors, **calling)
        if return_assistant_tokens_mask:
            # The mask of the tokenizer is of unexpanded, unpadded ids: expand and pad it like them.
            rows = []
            for ids, mask, padded in zip(
                encoded["input_ids"], encoded["assistant_masks"], inputs["input_ids"], strict=True
            ):
                mask = self._expand(ids, mask)
                zeros = [0] * (len(padded) - len(mask))
                rows.append(zeros + mask if self.tokenizer.padding_side == "left" else mask + zeros)
            inputs["assistant_masks"] = rows
            inputs.convert_to_tensors(return_tensors)
        return inputs if return_dict else inputs["input_ids"]

    def render_chat(self, messages: list[dict], add_generation_prompt: bool = False) -> str:
        """Render a conversation in the form of the chat template, with `<fmri>` for each scan."""
        return self.apply_chat_template(messages, add_generation_prompt)

    def _as_text(self, message: dict) -> dict:
        """A message whose content, if it is a list of blocks, is their text, with `<fmri>` for each scan."""
        if not isinstance(message.get("content"), (list, tuple)):
            return message
        blocks = _blocks(message)
        unknown = [block["type"] for block in blocks if block["type"] not in ("fmri", "text")]
        if unknown:
            raise ValueError(f"Content blocks must have type 'text' or 'fmri', found {unknown[0]!r}.")
        text = "".join(self.fmri_token if block["type"] == "fmri" else block["text"] for block in blocks)
        return {**message, "content": text}

    def split_chat(self, messages: list[dict]) -> list[tuple[str, bool]]:
        """Split a rendered conversation into pieces: (text, whether it is of the assistant).

        The piece of an answer ends with what the template writes after it, so that a model that learns it also learns
        to stop. Training and scoring tokenize piece by piece: both see the same ids.
        """
        pieces: list[tuple[str, bool]] = []
        # Tokenizing the whole and searching the answer in it would fail where a token spans both: "Answer:" and " yes"
        # need not be the tokens of "Answer: yes".
        done = ""
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = self.render_chat(messages[:i], add_generation_prompt=True)
            answered = self.render_chat(messages[: i + 1])
            if not (prompt.startswith(done) and answered.startswith(prompt)):
                raise ValueError(
                    "This chat template rewrites earlier turns when a conversation continues, so its answers cannot be "
                    "separated from its prompts. Use one question and one answer per conversation."
                )
            pieces += [(prompt[len(done) :], False), (answered[len(prompt) :], True)]
            done = answered
        if not pieces:
            raise ValueError("The conversation holds no message of the role 'assistant'.")
        return pieces

    def encode_chat(self, messages: list[dict]) -> dict[str, list[int]]:
        """Tokenize a conversation: `input_ids` and `labels`, -100 everywhere except on words of the assistant."""
        input_ids: list[int] = []
        labels: list[int] = []
        for text, is_answer in self.split_chat(messages):
            ids = self.tokenize(text)
            input_ids += ids
            labels += ids if is_answer else [-100] * len(ids)
        return {"input_ids": input_ids, "labels": labels}

    def decode_answer(self, token_ids: Any) -> str:
        """Decode generated ids, without placeholders and special tokens."""
        ids = np.asarray(token_ids).reshape(-1)
        return self.tokenizer.decode(ids[ids != self.fmri_token_id].tolist(), skip_special_tokens=True).strip()


def _blocks(message: dict) -> list[dict]:
    """The blocks of the content of a message; none for a plain string or a message that only calls tools."""
    content = message.get("content")
    return list(content) if isinstance(content, (list, tuple)) else []
