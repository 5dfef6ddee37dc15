"""Measure the perplexity of plain text before and after a language model learnt to read scans.

    python benchmarks/plain_text.py smollm2 MODEL

Each argument is a name that `language_model` of a recipe takes, or a model that reads scans, of which only the language
model is measured. The text is scikit-learn's descriptions of its data sets: English that comes with a dependency of
this package and that no training here sees. Results go to benchmarks/results/plain_text.json.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import sklearn
import torch

from fmri_lm_hf.files import write_json
from fmri_lm_hf.training.backbone import Backbone, load_backbone

RESULTS = Path(__file__).parent / "results" / "plain_text.json"
BLOCK = 256  # tokens that are read at once


def plain_text() -> str:
    folder = Path(sklearn.__file__).parent / "datasets" / "descr"
    return "\n\n".join(file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.rst")))


@torch.inference_mode()
def perplexity(backbone: Backbone, text: str, max_tokens: int) -> float:
    """Compute the perplexity of tokens given those before them in their block, without the first of each block."""
    ids = torch.tensor(backbone.text_tokenizer(text, add_special_tokens=False)["input_ids"][:max_tokens])
    model = backbone.language_model.eval()
    total, count = 0.0, 0
    for block in ids.split(BLOCK):
        if len(block) > 1:
            logits = model(block[None]).logits[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, block[1:], reduction="sum"))
            count += len(block) - 1
    return math.exp(total / count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--tokens", type=int, default=8192, help="of the text that are read")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = plain_text()
    rows = {Path(name).name: perplexity(load_backbone(name), text, options.tokens) for name in options.models}
    for name, value in rows.items():
        print(f"{name}: perplexity {value:.2f}")
    write_json({"tokens": options.tokens, "perplexity": rows}, options.out)


if __name__ == "__main__":
    main()
