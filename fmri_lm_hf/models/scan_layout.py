"""Where scans stand in a batch of prompts: which tokens see each other, which are hidden, and all positions.

Worked out once for a forward pass. What the tokens in a cache were is remembered on the cache, so that a text that
goes on from it (a further token, a second turn) is read as if the whole prompt were read again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache
from transformers.masking_utils import create_masks_for_generate

_REMEMBERED = "_fmri_layout"  # attribute of a cache


@dataclass(frozen=True)
class ScanLayout:
    """The layout of a batch of prompts, or of what is new in them behind a filled cache.

    A scan is a row of blocks of tokens: its time patches, and whatever `FmriTokenizerConfig.block_sizes` lists
    behind them. The tokens of a block see each other and share one position. Text is causal, and each of its tokens
    has a position.

    Attributes
    ----------
    position_ids : torch.LongTensor of shape (batch, n_new)
    attention_mask : torch.LongTensor of shape (batch, n_past + n_new), optional
        Zero for padding and for scan tokens that stand for nothing observed; None where nothing is hidden.
    is_scan : torch.BoolTensor of shape (batch, n_new), optional
        Which of the new tokens are scan tokens; None for text alone.
    block_ids : torch.LongTensor of shape (batch, n_past + n_new), optional
        Number of each new scan token's block in its row, -1 for text and for all that is in the cache.
    past_position_ids : torch.LongTensor of shape (batch, n_past), optional
        Those of the cache, where they are known.
    """

    position_ids: torch.Tensor
    attention_mask: torch.Tensor | None = None
    is_scan: torch.Tensor | None = None
    block_ids: torch.Tensor | None = None
    past_position_ids: torch.Tensor | None = None

    @classmethod
    def of(
        cls,
        new: torch.Tensor,
        is_scan: torch.Tensor | None,
        block_sizes: Sequence[int],
        present: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
    ) -> ScanLayout:
        """Work out a layout.

        Parameters
        ----------
        new : torch.Tensor of shape (batch, n_new, ...)
            The new ids or embeddings, for their shape and device.
        is_scan : torch.BoolTensor of shape (batch, n_new), optional
            Where scan tokens stand, whole scans of ``sum(block_sizes)`` tokens; None for text alone.
        block_sizes : sequence of int
            Tokens of each block of a scan.
        present : torch.BoolTensor of shape (n_scans, n_tokens), optional
            False for scan tokens to hide.
        attention_mask : torch.Tensor of shape (batch, n_past + n_new), optional
            Zero for padding.
        position_ids : torch.LongTensor of shape (batch, n_new), optional
            In place of those that follow from the prompt.
        cache : Cache, optional
            What was read before.

        Raises
        ------
        ValueError
            When the mask has another shape, positions depend on a cache that remembers none, or the cache holds
            other prompts.
        """
        n_past = 0 if cache is None else int(cache.get_seq_length())
        expected = (new.shape[0], n_past + new.shape[1])
        if attention_mask is not None and tuple(attention_mask.shape) != expected:
            raise ValueError(
                f"`attention_mask` must have shape (batch, n_past + n_positions) = {expected}, found "
                f"{tuple(attention_mask.shape)}; which scan tokens see each other is worked out inside."
            )
        past = _recall(cache, n_past, len(new)) if n_past else None
        block_ids = None if is_scan is None else _block_ids(is_scan, block_sizes)
        if position_ids is None:
            first: torch.Tensor | int = 0
            if n_past:
                if past is None or past.position_ids is None:
                    raise ValueError(
                        "With a cache that this model did not fill, the positions of new tokens are not known: pass "
                        "`position_ids`, the last columns of `model.get_position_ids(all_input_ids, attention_mask)`."
                    )
                first = past.position_ids[:, -1:] + 1
            shown = None if attention_mask is None else attention_mask[:, n_past:]
            position_ids = first + _steps(new, is_scan, block_ids, shown)
        return cls(
            position_ids=position_ids,
            attention_mask=_hidden(new, is_scan, present, attention_mask, past, n_past),
            is_scan=is_scan,
            # block ids are counted from the beginning of the cache
            block_ids=None if block_ids is None else F.pad(block_ids, (n_past, 0), value=-1),
            past_position_ids=None if past is None else past.position_ids,
        )

    def backbone_mask(
        self,
        config: PreTrainedConfig,
        inputs_embeds: torch.Tensor,
        cache: Cache | None,
        segments: torch.Tensor | None = None,
    ) -> torch.Tensor | dict[str, torch.Tensor] | None:
        """The attention mask in the form that the backbone of this configuration wants.

        Tokens of different `segments` (batch, n_past + n_new) do not see each other; all see segment 0.
        """
        return create_masks_for_generate(
            config=config,
            inputs_embeds=inputs_embeds,
            attention_mask=self.attention_mask,
            past_key_values=cache,
            # positions shared by a block would be taken for the borders of packed sequences
            position_ids=None,
            block_sequence_ids=self.block_ids,
            and_mask_function=None if segments is None else _within_segments(segments),
        )

    def without_hidden(self, inputs_embeds: torch.Tensor) -> tuple[ScanLayout, torch.Tensor]:
        """The layout and the embeddings (batch, n_new, size) of the tokens that are seen, with nothing in the cache.

        What is hidden changes nothing, but takes its time. Rows become as long as that with most to see, and are
        padded on the left: what follows the last hidden token stays where it is, counted from the end.
        """
        if self.attention_mask is None:
            return self, inputs_embeds
        seen = self.attention_mask.bool()
        n_seen = int(seen.sum(1).max())
        if n_seen == seen.shape[1]:
            return self, inputs_embeds
        chosen = seen.int().argsort(dim=1, stable=True)[:, -n_seen:]

        def of_seen(values: torch.Tensor | None) -> torch.Tensor | None:
            return None if values is None else values.gather(1, chosen)

        layout = ScanLayout(
            position_ids=self.position_ids.gather(1, chosen),
            attention_mask=of_seen(self.attention_mask),
            is_scan=of_seen(self.is_scan),
            block_ids=of_seen(self.block_ids),
        )
        return layout, inputs_embeds.gather(1, chosen[..., None].expand(-1, -1, inputs_embeds.shape[-1]))

    @staticmethod
    def places_without_hidden(attention_mask: torch.Tensor) -> torch.Tensor:
        """Where `without_hidden` puts the tokens that are seen: (batch, n_new), of no meaning for the others."""
        seen = attention_mask.bool()
        places = seen.cumsum(1) - 1
        n_seen = seen.sum(1, keepdim=True)
        if int(n_seen.max()) == seen.shape[1]:  # nothing is left out
            return torch.arange(seen.shape[1], device=seen.device).expand_as(places)
        return places + n_seen.max() - n_seen

    def remember(self, cache: Cache | None) -> None:
        """Note on a cache that was just filled what its tokens were."""
        if cache is None:
            return
        position_ids: torch.Tensor | None = self.position_ids
        if self.past_position_ids is not None:
            position_ids = torch.cat([self.past_position_ids, self.position_ids], dim=1)
        elif int(cache.get_seq_length()) > self.position_ids.shape[1]:
            position_ids = None
        setattr(cache, _REMEMBERED, _Past(position_ids, self.attention_mask))


@dataclass(frozen=True)
class _Past:
    """What a cache remembers of its tokens; None for positions that are not known, and where nothing is hidden."""

    position_ids: torch.Tensor | None  # (batch, n_past)
    attention_mask: torch.Tensor | None  # (batch, n_past)


def _recall(cache: Cache | None, n_past: int, n_rows: int) -> _Past | None:
    """What the cache remembers of its first `n_past` tokens, for so many rows of it."""
    past = getattr(cache, _REMEMBERED, None)
    if past is None:
        return None
    return _Past(*(_matched(each, n_past, n_rows) for each in (past.position_ids, past.attention_mask)))


def _matched(values: torch.Tensor | None, n_past: int, n_rows: int) -> torch.Tensor | None:
    if values is None:
        return None
    n_each, rest = divmod(n_rows, len(values))
    if rest:
        raise ValueError(
            f"The cache was filled for {len(values)} prompt(s) and cannot go on with {n_rows}: expected the same "
            "prompts, or each of them equally often."
        )
    # as `Cache.batch_repeat_interleave` repeats them; a cache that was cropped keeps its first tokens
    return values[:, :n_past].repeat_interleave(n_each, dim=0)


def _block_ids(is_scan: torch.Tensor, block_sizes: Sequence[int]) -> torch.Tensor:
    """Number of each scan token's block in its row, -1 for text: (batch, n_new)."""
    of_token = [block for block, size in enumerate(block_sizes) for _ in range(size)]
    index = (is_scan.cumsum(1) - 1).clamp_min(0)
    within = torch.tensor(of_token, device=is_scan.device)[index % len(of_token)]
    return torch.where(is_scan, index // len(of_token) * len(block_sizes) + within, -1)


def _steps(
    new: torch.Tensor,
    is_scan: torch.Tensor | None,
    block_ids: torch.Tensor | None,
    shown: torch.Tensor | None,
) -> torch.Tensor:
    """Positions counted from the first new token on: one for each token of text and for each block."""
    advances = torch.ones(new.shape[:2], dtype=torch.bool, device=new.device)
    if shown is not None:
        advances = shown.bool()
    if is_scan is not None and block_ids is not None:
        # blocks of a scan follow each other, and text between scans has -1
        before = F.pad(block_ids, (1, 0), value=-1)[:, :-1]
        advances = torch.where(is_scan, block_ids != before, advances)
    return (advances.cumsum(1) - 1).clamp_min(0)


def _hidden(
    new: torch.Tensor,
    is_scan: torch.Tensor | None,
    present: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    past: _Past | None,
    n_past: int,
) -> torch.Tensor | None:
    """`attention_mask` with zeros at scan tokens that are not present, here and in the cache."""
    was_hidden = past is not None and past.attention_mask is not None
    if not was_hidden and (present is None or is_scan is None):
        return attention_mask
    if attention_mask is None:
        attention_mask = torch.ones(len(new), n_past + new.shape[1], dtype=torch.long, device=new.device)
    before, now = attention_mask[:, :n_past], attention_mask[:, n_past:]
    if past is not None and past.attention_mask is not None:
        before = before * past.attention_mask.to(before.dtype)
    if present is not None and is_scan is not None:
        now = now.masked_scatter(is_scan, present.to(now.dtype))
    return torch.cat([before, now], dim=1)


def _within_segments(segments: torch.Tensor) -> Callable:
    """A mask function: every token sees segment 0 and its own."""

    def visible(batch, head, query, key):
        return (segments[batch, key] == 0) | (segments[batch, key] == segments[batch, query])

    return visible
