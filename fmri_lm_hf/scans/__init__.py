"""Scan datasets: from folders of scans to sharded Parquet, and back."""
