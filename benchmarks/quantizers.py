"""Compare quantizers: what each keeps of a scan, and how many of its codes are in use.

    python benchmarks/quantizers.py [NAME ...]
    python benchmarks/quantizers.py --cost

Each NAME of `SETTINGS` is a training of stage 1 at the size of `training/recipes/cpu/tokenizer.yaml`, on 576 simulated
scans of 160 ROIs, without texts, measured on 64 further scans. `--cost` measures the share of the quantizer in a
training step at the published size. Results are added to benchmarks/results/quantizers.json. One thread; a training
takes under a minute.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import median_seconds
from tqdm import trange
from transformers import get_cosine_schedule_with_warmup

from experiments.tokens.measures import correlations_of_rows
from fmri_lm_hf import FmriFeatureExtractor, FmriTokenizerConfig, FmriTokenizerForPreTraining
from fmri_lm_hf.files import write_json
from fmri_lm_hf.simulation import Site, simulate_cohort

RESULTS = Path(__file__).parent / "results" / "quantizers.json"
N_TRAIN, N_TEST, BATCH, N_STEPS = 576, 64, 32, 120
SHAPE = {
    "n_timepoints": 160,
    "patch_size": 160,
    "input_features": ["connectivity"],
    "connectivity_rank": 64,
    "hidden_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "initializer_range": 0.08,
}
CODEBOOKS = {"codebook_size": 512, "codebook_dim": 64, "num_quantizers": 4}
LATENTS = {"quantizer": "titok", "num_latent_tokens": 64, "num_attention_heads": 8}
SETTINGS: dict[str, dict[str, Any]] = {
    "rvq, decay 0.99": {**CODEBOOKS, "codebook_decay": 0.99},
    "rvq, decay 0.95": {**CODEBOOKS, "codebook_decay": 0.95},
    "rvq": CODEBOOKS,
    "rvq, decay 0.8": {**CODEBOOKS, "codebook_decay": 0.8},
    "rvq, warm-up": {**CODEBOOKS, "codebook_warmup_steps": 40},
    "vq": {**CODEBOOKS, "num_quantizers": 1},
    "vq, warm-up": {**CODEBOOKS, "num_quantizers": 1, "codebook_warmup_steps": 40},
    "vq, 4 patches": {**CODEBOOKS, "num_quantizers": 1, "patch_size": 40, "codebook_warmup_steps": 40},
    "fsq": {"quantizer": "fsq", "fsq_levels": [8, 8, 8, 6, 5]},
    "fsq, 4 codes": {"quantizer": "fsq", "fsq_levels": [8, 5, 5, 5], "num_quantizers": 4},
    "titok": {**LATENTS, **CODEBOOKS, "num_quantizers": 16, "codebook_warmup_steps": 40},
    "titok, fsq": {**LATENTS, "fsq_levels": [8, 5, 5, 5], "num_quantizers": 16},
    # a warm-up that never ends: the decoder gets the latents as they are
    "not quantized": {**CODEBOOKS, "codebook_warmup_steps": 10**6},
    "rvq, each profile by itself": {**CODEBOOKS, "connectivity_rank": None},
    "not quantized, each profile by itself": {
        **CODEBOOKS,
        "connectivity_rank": None,
        "codebook_warmup_steps": 10**6,
    },
}


def simulated_inputs() -> tuple[torch.Tensor, list[int]]:
    """Simulate scans (n, n_rois, n_timepoints), and number the network of each ROI."""
    cohort = simulate_cohort(sites=[Site("A", N_TRAIN + N_TEST)])
    extractor = FmriFeatureExtractor(atlas=cohort.atlas, n_timepoints=SHAPE["n_timepoints"], t_r=2.0)
    inputs = [extractor(scan["bold"], t_r=scan["t_r"])["input_values"] for scan in cohort.dataset]
    return torch.cat(inputs), [cohort.atlas.network_names.index(each) for each in cohort.atlas.networks]


def connectivity_r(inputs: torch.Tensor, profiles: torch.Tensor) -> float:
    """Correlate connectivity of scans with reconstructed profiles, over pairs of ROIs; mean over scans."""
    first, second = np.triu_indices(inputs.shape[1], 1)
    original = np.stack([np.corrcoef(scan)[first, second] for scan in inputs])
    again = (profiles[:, first, second] + profiles[:, second, first]).numpy()
    return float(correlations_of_rows(original, again).mean())


def train(inputs: torch.Tensor, networks: list[int], name: str, n_steps: int, seed: int) -> dict[str, Any]:
    """Train a tokenizer and measure it on unseen scans."""
    torch.manual_seed(seed)
    config = FmriTokenizerConfig(n_rois=inputs.shape[1], roi_networks=networks, **(SHAPE | SETTINGS[name]))
    model = FmriTokenizerForPreTraining(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = get_cosine_schedule_with_warmup(optimizer, n_steps // 10, n_steps)
    draw = torch.Generator().manual_seed(seed)
    start = time.process_time()
    for _ in trange(n_steps, desc=name):
        rows = torch.randint(N_TRAIN, (BATCH,), generator=draw)
        model(inputs[rows]).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    seconds = time.process_time() - start
    with torch.no_grad():
        # in training mode during the warm-up, latents are not quantized: that is the setting without a quantizer
        if config.codebook_warmup_steps < n_steps:
            model.eval()
        output = model(inputs[N_TRAIN:])
    row: dict[str, Any] = {
        "reconstruction_loss": round(output.reconstruction_loss.item(), 4),
        "connectivity_r": round(connectivity_r(inputs[N_TRAIN:], output.connectivity), 3),
    }
    if output.fmri_codes is not None:
        statistics = model.code_statistics(output.fmri_codes)
        row |= {
            "n_codes": config.codebook_size,
            "used": statistics.used,
            "dead": statistics.dead,
            "perplexity": [round(each, 1) for each in statistics.perplexity],
            "n_tokens": config.n_tokens,
        }
    return row | {"seconds": round(seconds, 1)}


def cost() -> dict[str, float]:
    """Measure processor time a scan of the quantizer (published size, batch of 32) and of a whole step."""
    torch.manual_seed(0)
    model = FmriTokenizerForPreTraining(FmriTokenizerConfig()).train()
    config = model.config

    def step() -> None:
        model(torch.randn(1, config.n_rois, config.n_timepoints)).loss.backward()

    def quantize(n_scans: int) -> None:
        mask = torch.ones(n_scans, config.n_tokens, dtype=torch.bool)
        with torch.no_grad():
            model.quantizer(torch.randn(n_scans, config.n_tokens, config.hidden_size), mask)

    quantize(BATCH)  # k-means
    _, of_step = median_seconds(step, repeats=3)
    _, of_quantizer = median_seconds(lambda: quantize(BATCH), repeats=3)
    return {
        "step_ms_per_scan": round(1000 * of_step, 1),
        "quantizer_ms_per_scan_at_batch_32": round(1000 * of_quantizer / BATCH, 1),
        "share": round(of_quantizer / BATCH / of_step, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(SETTINGS)} (default: all)")
    parser.add_argument(
        "--cost", action="store_true", help="measure the share of the quantizer in a step, without training"
    )
    parser.add_argument("--steps", type=int, default=N_STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if unknown := set(options.names) - set(SETTINGS):
        parser.error(f"unknown settings {', '.join(sorted(unknown))}: expected any of {', '.join(SETTINGS)}")
    torch.set_num_threads(1)
    results = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    if options.cost:
        results["cost"] = cost()
        print(results["cost"])
        return write_json(results, options.out)
    inputs, networks = simulated_inputs()
    rows = results.setdefault("settings", {})
    for name in options.names or SETTINGS:
        rows[name] = train(inputs, networks, name, options.steps, options.seed) | {
            "steps": options.steps,
            "seed": options.seed,
        }
        print(name, rows[name])
        write_json(results, options.out)


if __name__ == "__main__":
    main()
