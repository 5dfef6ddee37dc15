"""Golden values of the published program, and models converted from its checkpoints."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("gpt2", "qwen3_lora", "vq_patch10")


@dataclass
class Golden:
    """One golden folder: its sizes, its checkpoint and the values that the published program gives."""

    folder: Path
    meta: dict[str, Any]
    expected: dict[str, torch.Tensor]

    @property
    def options(self) -> dict[str, Any]:
        """What a state dict cannot tell."""
        options: dict[str, Any] = {"encoder_heads": self.meta["encoder"]["num_heads"]}
        if "lm_config" in self.meta:
            options["text_config"] = self.meta["lm_config"]
        if self.meta.get("lora"):
            options["lora_alpha"] = self.meta["lora"]["alpha"]
        if self.meta.get("fmri_delimiter_ids"):
            options["delimiter_ids"] = (self.delimiters["start"], self.delimiters["end"])
        return options

    @property
    def delimiters(self) -> dict[str, list[int]]:
        return self.meta.get("fmri_delimiter_ids") or {"start": [], "end": []}

    def prompts(self, fmri_token_id: int) -> torch.Tensor:
        """Scan, between its delimiters if there are any, followed by the text: (batch, n_all)."""
        text = self.expected["input_ids"]
        n_tokens = self.expected["lm_embeddings"].shape[1]
        scan = [*self.delimiters["start"], *[fmri_token_id] * n_tokens, *self.delimiters["end"]]
        return torch.cat([torch.tensor(scan).expand(len(text), -1), text], dim=1)


@pytest.fixture(scope="session")
def golden() -> dict[str, Golden]:
    return {
        name: Golden(
            GOLDEN / name,
            json.loads((GOLDEN / name / "meta.json").read_text()),
            load_file(GOLDEN / name / "expected.safetensors"),
        )
        for name in NAMES
    }


@pytest.fixture(scope="session")
def converted(golden, tmp_path_factory) -> dict[str, Path]:
    """Folder of each converted checkpoint; `qwen3_lora` keeps its adapter, `qwen3_merged` has it merged."""
    from fmri_lm_hf.conversion import convert_upstream

    folders = {}
    for name, source, merge in [
        *((name, name, False) for name in NAMES),
        ("qwen3_merged", "qwen3_lora", True),
    ]:
        folders[name] = tmp_path_factory.mktemp("converted") / name
        convert_upstream(golden[source].folder / "checkpoint.pt", folders[name], merge=merge, **golden[source].options)
    return folders
