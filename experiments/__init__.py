"""Experiments with the method: ablations and reports on tokens. Not a part of the installed package."""
