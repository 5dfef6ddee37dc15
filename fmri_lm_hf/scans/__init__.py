"""Scan datasets: from folders of scans to sharded Parquet, and back."""

from .dataset import load_scan_dataset, write_scan_dataset

__all__ = ["load_scan_dataset", "write_scan_dataset"]
