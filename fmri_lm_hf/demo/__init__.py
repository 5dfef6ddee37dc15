"""The demo: every stage at a size for two cores, on a simulated cohort or on a scan dataset of your own."""

from .run import run_demo

__all__ = ["run_demo"]
