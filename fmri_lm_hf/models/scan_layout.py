"""Attention masks and positions of prompts with scans.

A scan is a row of blocks of tokens: its time patches, in time-major order (all ROIs of patch 0, then of patch 1), and
whatever `FmriTokenizerConfig.block_sizes` lists after them. The tokens of a block see each other and share one
position; text is causal, and each of its tokens has a position. So for a prompt "a <scan of 2 patches, 2 ROIs> b":

    tokens      a   s   s   s   s   b
    block_ids  -1   0   0   1   1  -1
    positions   0   1   1   2   2   3

Hidden tokens are padding, and scan tokens that stand for nothing observed (a missing ROI, a time patch of padding).
Padding does not advance positions, but a hidden scan token keeps its place in its block: positions do not depend on
what is missing.

A layout is computed once for a forward pass. The cache remembers what its tokens were, so that a text that continues
it (a further token, a second turn) is read as if the whole prompt were read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache
from transformers.masking_utils import create_masks_for_generate

_REMEMBERED = "_fmri_layout"  # attribute of a cache


@dataclass(frozen=True)
class ScanLayout:
    """The layout of a batch of prompts, or of the new tokens after a filled cache.

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

    position_ids: Tensor
    attention_mask: Tensor | None = None
    is_scan: Tensor | None = None
    block_ids: Tensor | None = None
    past_position_ids: Tensor | None = None

    @classmethod
    def of(
        cls,
        new: Tensor,
        is_scan: Tensor | None,
        block_sizes: Sequence[int],
        present: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
    ) -> ScanLayout:
        """Compute a layout.

        Parameters
        ----------
        new : torch.Tensor of shape (batch, n_new, ...)
            The new ids or embeddings, for their shape and device.
        is_scan : torch.BoolTensor of shape (batch, n_new), optional
            Which tokens are those of scans, whole scans of ``sum(block_sizes)`` tokens; None for text alone.
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
            If the mask has another shape, if positions depend on a cache that remembers none, or if the cache holds
            other prompts.
        """
        n_past = 0 if cache is None else int(cache.get_seq_length())
        expected = (new.shape[0], n_past + new.shape[1])
        if attention_mask is not None and tuple(attention_mask.shape) != expected:
            raise ValueError(
                f"`attention_mask` must have shape (batch, n_past + n_positions) = {expected}, found "
                f"{tuple(attention_mask.shape)}; which scan tokens see each other is computed inside."
            )
        past = _Past.of(cache, n_past, len(new)) if n_past else _Past()
        block_ids = None if is_scan is None else _block_ids(is_scan, block_sizes)
        if position_ids is None:
            first: Tensor | int = 0
            if n_past:
                if past.position_ids is None:
                    raise ValueError(
                        "With a cache that this model did not fill, the positions of new tokens are not known: pass "
                        "`position_ids`, the last columns of `model.get_position_ids(all_input_ids, attention_mask)`."
                    )
                first = past.position_ids[:, -1:] + 1
            shown = None if attention_mask is None else attention_mask[:, n_past:]
            position_ids = first + _steps(new, is_scan, block_ids, shown)
        if attention_mask is None and (present is not None or past.attention_mask is not None):
            attention_mask = torch.ones(expected, dtype=torch.long, device=new.device)
        if attention_mask is not None:
            before, now = attention_mask[:, :n_past], attention_mask[:, n_past:]
            # The mask of a caller knows of padding only. Tokens of the cache that were hidden stay hidden, or text
            # behind the cache would see missing ROIs that the prompt read as a whole does not.
            if past.attention_mask is not None:
                before = before * past.attention_mask.to(before.dtype)
            if present is not None and is_scan is not None:
                now = now.masked_scatter(is_scan, present.to(now.dtype))
            attention_mask = torch.cat([before, now], dim=1)
        return cls(
            position_ids=position_ids,
            attention_mask=attention_mask,
            is_scan=is_scan,
            # with a column for each token of the cache, as the mask functions of transformers count
            block_ids=None if block_ids is None else F.pad(block_ids, (n_past, 0), value=-1),
            past_position_ids=past.position_ids,
        )

    def backbone_mask(
        self,
        config: PreTrainedConfig,
        inputs_embeds: Tensor,
        cache: Cache | None,
        segments: Tensor | None = None,
    ) -> Tensor | dict[str, Tensor] | None:
        """Make the attention mask in the form that the backbone of this configuration takes.

        Tokens of different `segments` (batch, n_past + n_new) do not see each other; all see segment 0.
        """

        def sees_segment(batch, head, query, key):
            assert segments is not None
            return (segments[batch, key] == 0) | (segments[batch, key] == segments[batch, query])

        return create_masks_for_generate(
            config=config,
            inputs_embeds=inputs_embeds,
            attention_mask=self.attention_mask,
            past_key_values=cache,
            # Never pass positions: where they do not rise, as inside a block, transformers takes the place for the
            # border of packed sequences and hides everything before it.
            position_ids=None,
            block_sequence_ids=self.block_ids,
            and_mask_function=None if segments is None else sees_segment,
        )

    def without_hidden(self, inputs_embeds: Tensor) -> tuple[ScanLayout, Tensor]:
        """Return layout and embeddings (batch, n_seen, size) without the hidden tokens; not with a cache.

        Hidden tokens change nothing and take time. Rows become as long as the one with the most tokens to see, and
        are padded on the left, so that what follows the last hidden token of a row keeps its place from the end.
        Positions are those of the whole prompt: they are not counted anew.
        """
        if self.attention_mask is None:
            return self, inputs_embeds
        seen = self.attention_mask.bool()
        n_seen = int(seen.sum(1).max())
        if n_seen == seen.shape[1]:
            return self, inputs_embeds
        # a stable sort moves hidden tokens to the front and keeps the order of the others
        chosen = seen.int().argsort(dim=1, stable=True)[:, -n_seen:]
        position_ids, mask, is_scan, block_ids = (
            None if values is None else values.gather(1, chosen)
            for values in (self.position_ids, self.attention_mask, self.is_scan, self.block_ids)
        )
        assert position_ids is not None
        layout = ScanLayout(position_ids, mask, is_scan, block_ids)
        return layout, inputs_embeds.gather(1, chosen[..., None].expand(-1, -1, inputs_embeds.shape[-1]))

    @staticmethod
    def places_without_hidden(attention_mask: Tensor) -> Tensor:
        """Find the places where `without_hidden` puts seen tokens: (batch, n_new), undefined for hidden ones."""
        seen = attention_mask.bool()
        places = seen.cumsum(1) - 1
        n_seen = seen.sum(1, keepdim=True)
        if int(n_seen.max()) == seen.shape[1]:  # nothing is left out
            return torch.arange(seen.shape[1], device=seen.device).expand_as(places)
        # rows with fewer tokens to see are padded on the left, which moves theirs to the right
        return places + n_seen.max() - n_seen

    def remember(self, cache: Cache | None) -> None:
        """Note on a cache that was just filled what its tokens were."""
        if cache is None:
            return
        position_ids: Tensor | None = self.position_ids
        if self.past_position_ids is not None:
            position_ids = torch.cat([self.past_position_ids, self.position_ids], dim=1)
        elif int(cache.get_seq_length()) > self.position_ids.shape[1]:
            position_ids = None  # another model filled the beginning, and its positions are not known
        setattr(cache, _REMEMBERED, _Past(position_ids, self.attention_mask))


@dataclass(frozen=True)
class _Past:
    """A cache's note of its tokens; positions are None if they are not known, and the mask if nothing is hidden."""

    position_ids: Tensor | None = None  # (batch, n_past)
    attention_mask: Tensor | None = None  # (batch, n_past)

    @classmethod
    def of(cls, cache: Cache | None, n_past: int, n_rows: int) -> _Past:
        """The note of a cache on its first `n_past` tokens, repeated for `n_rows` rows."""
        past = getattr(cache, _REMEMBERED, cls())
        found = []
        for values in (past.position_ids, past.attention_mask):
            if values is not None:
                n_each, rest = divmod(n_rows, len(values))
                if rest:
                    raise ValueError(
                        f"The cache was filled for {len(values)} prompt(s) and cannot continue with {n_rows}: expected "
                        "the same prompts, or each of them equally often."
                    )
                # Since then the cache may have been cropped, which keeps its first tokens, or repeated for beams and
                # answers; `Cache.batch_repeat_interleave` does not know of our note, so we repeat it alike.
                values = values[:, :n_past].repeat_interleave(n_each, dim=0)
            found.append(values)
        return cls(*found)


def _block_ids(is_scan: Tensor, block_sizes: Sequence[int]) -> Tensor:
    """Number of each scan token's block in its row, -1 for text: (batch, n_new)."""
    # Blocks are numbered through all scans of a row: if numbers began anew in each scan, the first patches of two scans
    # would pass for one block and see each other.
    of_token = [block for block, size in enumerate(block_sizes) for _ in range(size)]
    # the scans of a row one after the other, whatever text is between them
    index = (is_scan.cumsum(1) - 1).clamp_min(0)
    within = torch.tensor(of_token, device=is_scan.device)[index % len(of_token)]
    return torch.where(is_scan, index // len(of_token) * len(block_sizes) + within, -1)


def _steps(new: Tensor, is_scan: Tensor | None, block_ids: Tensor | None, shown: Tensor | None) -> Tensor:
    """Positions counted from the first new token: one for each token of text and for each block."""
    advances = torch.ones(new.shape[:2], dtype=torch.bool, device=new.device)
    if shown is not None:
        advances = shown.bool()
    if is_scan is not None and block_ids is not None:
        # a block begins where its number differs from that before; text has -1, so scans next to each other differ too
        before = F.pad(block_ids, (1, 0), value=-1)[:, :-1]
        advances = torch.where(is_scan, block_ids != before, advances)
    return (advances.cumsum(1) - 1).clamp_min(0)
