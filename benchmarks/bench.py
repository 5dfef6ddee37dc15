"""Measure operations, time and memory of training steps, answers and commands, in one table: `make bench`.

    python benchmarks/bench.py [ROW ...]
    python benchmarks/bench.py --check

Each row is measured in a new process, on one thread: operations as torch counts them, the median time as a share of
what the machine's matrix products reach in the same minute (so that it can be compared between machines, busy or not),
peak memory, and the ratio to another row. A failed row is reported, and the others are still measured. Results go to
benchmarks/results/bench.json. About ten minutes.

`--check` measures only what does not depend on the machine, operations and the bytes that a step keeps for its backward
pass, and fails if any has grown by more than 5 % over benchmarks/results/bench.json. About a minute.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import median_seconds
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from fmri_lm_hf.files import write_json

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results" / "bench.json"
ALLOWED = 1.05  # growth of operations and bytes
SCAN_TOKEN = 50256
SMALL = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "codebook_size": 16}
LATENTS = {"quantizer": "titok", "num_latent_tokens": 64}
COUNTED = ("gflop", "kept_mb")  # what `--check` compares with the results
Step = Callable[[], torch.Tensor | None]


# --------------------------------------------------------------------------------------------- the measured steps


def lm(n_rois: int = 450, patch_size: int = 160, tokenizer: dict[str, Any] = SMALL) -> Any:
    """Make a model of GPT-2 size, with random weights, over a tokenizer (small by default: features may be given)."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from fmri_lm_hf import FmriLMForCausalLM, FmriTokenizer, FmriTokenizerConfig

    config = FmriTokenizerConfig(n_rois=n_rois, n_timepoints=160, patch_size=patch_size, **tokenizer)
    text = GPT2Config(attn_pdrop=0.0, n_positions=4096, activation_function="gelu_pytorch_tanh")
    return FmriLMForCausalLM.from_components(FmriTokenizer(config), GPT2LMHeadModel(text), fmri_token_id=SCAN_TOKEN)


def stage_1(batch_size: int) -> Step:
    """Make a step of stage 1 at the published size: forward, backward, AdamW."""
    from fmri_lm_hf import FmriTokenizerConfig, FmriTokenizerForPreTraining

    model = FmriTokenizerForPreTraining(FmriTokenizerConfig()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    inputs = torch.randn(batch_size, model.config.n_rois, model.config.n_timepoints)

    def step() -> torch.Tensor:
        loss = model(inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    step()  # the first batch also initialises the codebook by k-means: not a usual step
    return step


def stage_2(patch_size: int = 160, n_texts: int = 0, padded: bool = False, tokenizer: dict[str, Any] = SMALL) -> Step:
    """Make a step of stage 2 with stored features: a scan and 64 words, and texts of 64 words without a scan."""
    from fmri_lm_hf.training.arguments import StageArguments
    from fmri_lm_hf.training.trainer import FmriLMTrainer

    model = lm(patch_size=patch_size, tokenizer=tokenizer)
    model.freeze_fmri_tokenizer()
    n_tokens, n_words = model.config.n_scan_tokens, 64
    words = torch.randint(0, 5000, (1 + n_texts, n_tokens + n_words))
    words[0, 8 : 8 + n_tokens] = SCAN_TOKEN
    labels, mask = torch.full_like(words, -100), torch.ones_like(words)
    labels[:, 1 - n_words + 8 :] = words[:, 1 - n_words + 8 :]
    mask[1:, :n_tokens] = 0
    with torch.no_grad():
        features = model.get_fmri_features(torch.randn(1, 450, 160))
    batch = {"input_ids": words, "labels": labels, "attention_mask": mask, "fmri_features": features}
    trainer = FmriLMTrainer(model, StageArguments(tempfile.mkdtemp(), use_cpu=True), train_dataset=[batch])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    model.train()

    def step() -> torch.Tensor:
        loss = model(**batch).loss if padded else trainer.compute_loss(model, dict(batch))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def questions(n: int) -> Step:
    """Make a step that scores two answers to each of `n` questions of 16 words about a scan."""
    from fmri_lm_hf.models.answers import answers_to_questions

    model = lm(tokenizer={}).eval()
    draw = np.random.default_rng(0)
    prompt = [1, 2, 3] + model.config.n_scan_tokens * [SCAN_TOKEN]
    asked = [(prompt + draw.integers(5000, size=16).tolist(), [[10], [11]]) for _ in range(n)]
    scan = torch.randn(1, 450, 160)

    def step() -> None:
        with torch.no_grad():
            answers_to_questions(model, asked, input_values=scan)

    return step


# row -> (description, function that makes its step, whether `--check` repeats it)
STEPS: dict[str, tuple[str, Callable[[], Step], bool]] = {
    "stage 1, batch 1": ("step of ViT-base, 450 ROIs, patch 160", lambda: stage_1(1), True),
    "stage 1, batch 4": ("the same with four scans", lambda: stage_1(4), False),
    "stage 2": ("step of GPT-2 size, 450 + 64 tokens, features given", stage_2, True),
    "stage 2, scan and text": ("the same with a text, run apart", lambda: stage_2(n_texts=1), True),
    "stage 2, padded": ("the same, padded into one batch", lambda: stage_2(n_texts=1, padded=True), False),
    "stage 2, patch 32": ("step with 2,250 + 64 tokens", lambda: stage_2(patch_size=32), False),
    "stage 2, 64 latents": (
        "step with 64 latent tokens + 64 tokens",
        lambda: stage_2(tokenizer=SMALL | LATENTS),
        True,
    ),
    "one question": ("two answers about a scan, ViT-base and GPT-2 size", lambda: questions(1), True),
    "ten questions": ("the same of ten questions", lambda: questions(10), True),
}
COMPARED_WITH = {
    "stage 2, scan and text": "stage 2, padded",
    "ten questions": "one question",
    "stage 2, patch 32": "stage 2",
    "stage 2, 64 latents": "stage 2",
}


def matrix_rate() -> float:
    """Measure GFLOP/s of products of 1,024 x 1,024 matrices."""
    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    _, seconds = median_seconds(lambda: left @ right, repeats=15)
    return 2 * 1024**3 / seconds / 1e9


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward_flops(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


# Attention on a CPU, which torch's counter does not know: without these, its operations would count as zero. Masked
# positions are computed as well, so masks are ignored.
ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


def count(step: Step) -> dict[str, float]:
    """Count operations of a step, and the bytes that it keeps for its backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        # by storage: views of one tensor are kept once
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
    ):
        step()
    return {"gflop": round(counter.get_total_flops() / 1e9, 1), "kept_mb": round(sum(kept.values()) / 1e6)}


def step_row(name: str, timed: bool = True) -> dict[str, Any]:
    """Measure one of `STEPS`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    description, make, _ = STEPS[name]
    step = make()
    row: dict[str, Any] = {"what": description, **count(step)}
    if timed:
        rate = matrix_rate()
        clock, processor = median_seconds(step, repeats=3, warm_up=False)  # `count` was the warm-up
        row |= {"seconds": round(clock, 2), "share_of_rate": round(row["gflop"] / processor / rate, 2)}
        row["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
    return row


def pipeline_row() -> dict[str, Any]:
    """Measure how many scans a second a pipeline with the bundled model answers about, from 300 tables on disk."""
    from transformers import pipeline

    from fmri_lm_hf.bundled import load_bundled_model
    from fmri_lm_hf.simulation import Site, simulate_cohort

    torch.set_num_threads(1)
    model, processor = load_bundled_model()
    ask = pipeline("fmri-zero-shot-classification", model=model, processor=processor)
    scans = simulate_cohort(sites=[Site("A", 300)]).dataset
    rates = {}
    with tempfile.TemporaryDirectory() as folder:
        for extension in ("npy", "tsv"):
            files = [f"{folder}/{i}.{extension}" for i in range(len(scans))]
            for file, scan in zip(files, scans):
                bold = np.asarray(scan["bold"], dtype=np.float32)
                if extension == "npy":
                    np.save(file, bold)
                else:
                    names = "\t".join(processor.feature_extractor.atlas.roi_names)
                    np.savetxt(file, bold, fmt="%.5f", delimiter="\t", header=names, comments="")
            given = {"candidate_labels": ["high", "low"], "question": "Connectivity?", "t_r": 2.0, "force": True}
            _, seconds = median_seconds(
                lambda files=files, given=given: ask(files, batch_size=32, **given), repeats=1, warm_up=False
            )
            rates[f"{extension}_per_second"] = round(len(files) / seconds)
    return {"what": "300 tables through fmri-zero-shot-classification, the bundled model", **rates}


def start_row() -> dict[str, Any]:
    """Measure the time of `fmri-lm --help`, and of the start of Python alone."""

    def run(*words: str) -> float:
        command = [sys.executable, *words]
        return median_seconds(lambda: subprocess.run(command, check=True, capture_output=True), repeats=5)[0]

    ours, bare = run("-m", "fmri_lm_hf.cli", "--help"), run("-c", "pass")
    return {"what": "fmri-lm --help", "seconds": round(ours, 2), "ratio_to_python": round(ours / bare, 1)}


def script_row(name: str) -> dict[str, Any]:
    """Run a benchmark that has a script of its own."""
    done = subprocess.run([sys.executable, str(FOLDER / f"{name}.py")], capture_output=True, text=True)
    if done.returncode not in (0, 1):  # 1: a goal was missed
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return {"what": f"benchmarks/{name}.py", "printed": done.stdout.strip()}


OTHERS: dict[str, Callable[[], dict[str, Any]]] = {
    "pipeline": pipeline_row,
    "start": start_row,
    "descriptors": lambda: script_row("descriptors"),
    "extraction": lambda: script_row("extraction"),
}

# ------------------------------------------------------------------------------------------------------- the table


def measure(name: str, timed: bool = True) -> dict[str, Any]:
    """Measure a row, or return its error."""
    try:
        return step_row(name, timed) if name in STEPS else OTHERS[name]()
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}


def measure_in_new_process(name: str, timed: bool = True) -> dict[str, Any]:
    # peak memory is that of a process: rows in one would all have the largest
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (name, timed))


def line(name: str, rows: dict[str, dict[str, Any]]) -> str:
    row = rows[name]
    if "failed" in row:
        return f"{name:24s} failed: {row['failed']}"
    if "printed" in row:
        return f"{name:24s} {row['what']}\n{row['printed']}"
    if name not in STEPS:
        numbers = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in row.items() if key != "what")
        return f"{name:24s} {numbers}   {row['what']}"
    line = f"{name:24s} {row['gflop']:8.1f} GFLOP {row['seconds']:7.2f} s  {row['share_of_rate']:.2f} of the rate"
    line += f" {row['peak_mb']:6d} MB"
    other = rows.get(COMPARED_WITH.get(name, ""), {})
    if "seconds" in other:
        line += f"   {row['seconds'] / other['seconds']:.2f} times {COMPARED_WITH[name]}"
    return f"{line}   {row['what']}"


def find_growth(rows: dict[str, dict[str, Any]], before: dict[str, dict[str, Any]]) -> list[str]:
    """List the rows that failed or cost more than before, in sentences."""
    problems = []
    for name, row in rows.items():
        if "failed" in row:
            problems.append(f"{name} failed: {row['failed']}")
            continue
        for measured in COUNTED:
            now, then = row[measured], before[name][measured]
            if now > ALLOWED * then:
                problems.append(f"{name}: {measured} has grown from {then} to {now}, by more than 5 %.")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*STEPS, *OTHERS]
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"any of {', '.join(names)} (default: all)")
    parser.add_argument("--check", action="store_true", help="fail if operations or bytes have grown")
    options = parser.parse_args()
    if unknown := set(options.rows) - set(names):
        parser.error(f"unknown rows {', '.join(sorted(unknown))}: expected any of {', '.join(names)}")
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"rows": {}}
    if options.check:
        rows = {name: measure_in_new_process(name, timed=False) for name, (_, _, cheap) in STEPS.items() if cheap}
        problems = find_growth(rows, results["rows"])
        print("\n".join(problems) or "Operations and bytes have not grown.")
        return bool(problems)
    failed = False
    for name in options.rows or names:
        row = measure_in_new_process(name)
        failed |= "failed" in row
        if "failed" not in row:
            results["rows"][name] = row
        print(line(name, {**results["rows"], name: row}), flush=True)
        results |= {"torch": torch.__version__, "machine": platform.processor() or platform.machine()}
        write_json(results, RESULTS)
    return failed


if __name__ == "__main__":
    sys.exit(main())
