"""Language models that read fMRI scans, native to the Hugging Face ecosystem."""

from .__about__ import __version__

__all__ = ["__version__"]
