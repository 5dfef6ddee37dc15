"""The demo: all stages at a size for two cores, on a simulated cohort or on a scan dataset of your own."""

from .recipe import Recipe
from .run import run_demo

__all__ = ["Recipe", "run_demo"]
