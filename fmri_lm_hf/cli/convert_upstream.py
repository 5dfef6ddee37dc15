"""Convert a checkpoint of the published fMRI-LM program into a model of this package.

"Upstream" is the program published with arXiv 2511.21760. Its checkpoints are pickles, and nothing in them is executed:
tensors are read from the memory-mapped file, settings as plain data, and a pickle that tries to call anything is
refused. The command converts the fMRI tokenizer of stage 1 (`ckpt.pt`) and the language models of stages 2 and 3 (files
with `model` and `model_args`), among them the released one.

OUT becomes a folder with `config.json`, safetensors, a processor or feature extractor, and a card that names the
checkpoint. The checkpoint states no licence: convert it for your own use, and do not republish the result.

From the released file to a prediction:

  fmri-lm convert-upstream fMRI-LM-B-Qwen3-0.6B-instruct.pt fmri-lm-qwen3 --text-config Qwen/Qwen3-0.6B --merge
  python -c "import fmri_lm_hf; from transformers import pipeline; \\
    print(pipeline('fmri-zero-shot-classification', model='fmri-lm-qwen3')('sub-01_timeseries.tsv', t_r=0.72, \\
    candidate_labels=['Male', 'Female'], question='What is the sex of the participant?'))"

Without a network, and with a separate LoRA adapter:

  fmri-lm convert-upstream ckpt.pt OUT --text-config qwen3_config.json --delimiter-ids 5,6 7,8,9

A stage-1 tokenizer of an unpublished width:

  fmri-lm convert-upstream ckpt.pt OUT --encoder-heads 4 --atlas my_atlas.json
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fmri-lm convert-upstream`."""
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="`.pt` file of the published program")
    add("out", type=Path, metavar="OUT", help="folder for the converted model")
    add(
        "--text-config",
        metavar="FILE.json|ID",
        help="configuration of the language model: a JSON file, or a model folder or Hub id, from which the text "
        "tokenizer is taken too (default: the id in the checkpoint)",
    )
    add(
        "--encoder-heads",
        type=int,
        metavar="N",
        help="attention heads of the scan encoder (default: 6, 12, 16 for widths 384, 768, 1024)",
    )
    add("--lora-alpha", type=float, metavar="A", help="alpha of the LoRA adapter (default: twice its rank)")
    add(
        "--delimiter-ids",
        nargs=2,
        type=_ids,
        metavar=("START", "END"),
        help="token ids before and after a scan, each a comma-separated list (default: the text tokenizer's encoding "
        "of <fmri> and </fmri>, where the checkpoint was trained with them)",
    )
    add(
        "--atlas",
        metavar="FILE.json|NAME",
        help="names of the ROI slots (default: the published 450, Tian scale III and Schaefer 400)",
    )
    add(
        "--normalization",
        type=Path,
        metavar="FILE",
        help=".npz or JSON file with `medians` and `iqrs` of the cohort (default: those of each scan)",
    )
    add(
        "--n-timepoints",
        type=int,
        metavar="N",
        help="length of the model's input at TR 2.0 s (default: from the checkpoint)",
    )
    add("--merge", action="store_true", help="merge the LoRA adapter into the weights (default: a separate adapter)")


def run(args: argparse.Namespace) -> None:
    """Run `fmri-lm convert-upstream`."""
    from ..conversion import convert_upstream

    result = convert_upstream(
        args.checkpoint,
        args.out,
        text_config=args.text_config,
        encoder_heads=args.encoder_heads,
        lora_alpha=args.lora_alpha,
        delimiter_ids=args.delimiter_ids,
        atlas=args.atlas,
        normalization=args.normalization,
        n_timepoints=args.n_timepoints,
        merge=args.merge,
    )
    lora = f", LoRA {result.lora}" if result.lora else ""
    print(
        f"{result.folder}: {type(result.model).__name__} with {result.model.num_parameters():,} parameters{lora}, and "
        f"{type(result.preprocessor).__name__}"
    )
    for note in result.notes:
        print(f"- {note}")


def _ids(text: str) -> list[int]:
    try:
        return [int(token_id) for token_id in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected token ids separated by commas, such as 5,6, found {text!r}"
        ) from error
