"""Where scans stand in prompts: blocks, positions and hidden tokens, for blocks of any sizes."""

from __future__ import annotations

import torch

from fmri_lm_hf.models.scan_layout import ScanLayout

SIZES = (3, 3, 2)  # two time patches, and a last block of another size


def layout(pattern: str, **options) -> ScanLayout:
    """Of a prompt in which s stands for a scan, t for a token of text and p for padding."""
    is_scan = torch.tensor([[c == "s" for c in pattern for _ in range(sum(SIZES) if c == "s" else 1)]])
    if "p" in pattern:
        shown = [c != "p" for c in pattern for _ in range(sum(SIZES) if c == "s" else 1)]
        options["attention_mask"] = torch.tensor([shown]).long()
    return ScanLayout.of(is_scan, is_scan, SIZES, **options)


def test_a_block_has_one_number_and_one_position_whatever_its_size():
    found = layout("pptsst")
    blocks = [0] * 3 + [1] * 3 + [2] * 2
    assert found.block_ids.tolist() == [[-1, -1, -1, *blocks, *[each + 3 for each in blocks], -1]]
    positions = [each + 1 for each in blocks]
    assert found.position_ids.tolist() == [[0, 0, 0, *positions, *[each + 3 for each in positions], 7]]
    assert found.attention_mask.tolist() == [[0, 0] + [1] * 18]


def test_tokens_that_are_not_present_are_hidden_and_keep_their_positions():
    present = torch.ones(2, 8, dtype=torch.bool)
    present[1, [0, 7]] = False
    found = layout("tsts", present=present)
    assert found.attention_mask.tolist() == [[1] * 10 + [0] + [1] * 6 + [0]]
    assert torch.equal(found.position_ids, layout("tsts").position_ids)
    assert layout("tsts").attention_mask is None


def test_text_alone_has_no_blocks():
    found = ScanLayout.of(torch.zeros(2, 3), None, SIZES)
    assert found.block_ids is None
    assert found.position_ids.tolist() == [[0, 1, 2]] * 2
