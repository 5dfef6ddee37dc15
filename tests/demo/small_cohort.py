"""The demo at a size for seconds, and rows of a small cohort."""

from __future__ import annotations

# Sizes for seconds: what the demo's recipes would do at full size.
SMALL = {
    "tokenizer": [
        *(
            "--tokenizer.hidden_size",
            "16",
            "--tokenizer.codebook_size",
            "16",
            "--tokenizer.codebook_dim",
            "8",
        ),
        *("--num_train_epochs", "1", "--per_device_train_batch_size", "8"),
    ],
    "alignment": ["--num_train_epochs", "1", "--per_device_train_batch_size", "8", "--n_windows", "1"],
    "instruction": ["--num_train_epochs", "1", "--per_device_train_batch_size", "8", "--n_windows", "1"],
}


def rows(cohort, **changes) -> list[dict]:
    """The cohort's scans, with columns added or replaced by functions of the row."""
    dataset = cohort.dataset.with_format("numpy", columns=["bold"], output_all_columns=True)
    return [row | {name: change(i, row) for name, change in changes.items()} for i, row in enumerate(dataset)]
