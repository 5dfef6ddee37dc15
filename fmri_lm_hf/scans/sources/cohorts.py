"""Public cohorts that nilearn downloads: ABIDE-PCP ROI series, ADHD-200 (a sample), and development fMRI.

The folder of these sources is where nilearn keeps (or finds) its downloads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...models.atlas import Atlas
from ...models.scan_errors import ScanError, require
from ...models.scan_files import read_scan
from ..denoising import denoise, median_tsnr
from .bids import plain_value
from .source import ScanFile, Source

# TR in seconds at the sites of ABIDE I, as the initiative publishes them; its tables leave them out.
ABIDE_T_R = {
    **dict.fromkeys(
        ("CALTECH", "CMU", "NYU", "SDSU", "STANFORD", "TRINITY", "UM_1", "UM_2", "USM", "YALE"), 2.0
    ),
    **dict.fromkeys(("KKI", "OHSU"), 2.5),
    **dict.fromkeys(("MAX_MUN", "UCLA_1", "UCLA_2"), 3.0),
    **dict.fromkeys(("OLIN", "PITT"), 1.5),
    "LEUVEN_1": 1.656,
    "LEUVEN_2": 1.667,
    "SBL": 2.2,
}
# Motion, tissue signals and components of the confound tables that nilearn ships with the images.
CONFOUNDS = r"motion|trans_|rot_|csf|wm|white_matter|compcor|a_comp_cor"


@dataclass
class _NilearnSource(Source):
    """A cohort of `nilearn.datasets`.

    Parameters
    ----------
    n_subjects : int, optional
        Only the first so many.
    """

    n_subjects: int | None = None
    fetcher: ClassVar[str]

    def fetch(self, **options: Any) -> Any:
        """Download the cohort (or find it in the folder)."""
        fetch = getattr(require("nilearn.datasets"), self.fetcher)
        try:
            return fetch(data_dir=str(self.root), n_subjects=self.n_subjects, **options)
        except OSError as error:
            raise ScanError(
                f"The cohort {self.name} could not be downloaded: go online, or put "
                f"nilearn's downloads into {self.root}."
            ) from error


@dataclass
class AbideSource(_NilearnSource):
    """ABIDE I of the Preprocessed Connectomes Project, as ROI series that were extracted there.

    Parameters
    ----------
    pipeline : str
        `"cpac"`, `"css"`, `"dparsf"` or `"niak"`.
    rois : str
        Which series, such as `"rois_aal"` or `"rois_cc200"`. Their columns have no names, so their ROIs are numbered
        unless an atlas is given.
    """

    pipeline: str = "cpac"
    rois: str = "rois_aal"
    name = "abide_pcp"
    fetcher = "fetch_abide_pcp"

    def find(self) -> list[ScanFile]:
        bunch = self.fetch(pipeline=self.pipeline, derivatives=[self.rois])
        found = []
        for row, table in zip(_records(bunch["phenotypic"]), bunch[self.rois], strict=True):
            phenotypes = {
                "age": _number(row["AGE_AT_SCAN"]),
                "sex": {1: "male", 2: "female"}.get(row["SEX"]),
                "diagnosis": {1: "autism", 2: "control"}.get(row["DX_GROUP"]),
                "fiq": _number(row.get("FIQ"), missing=-9999),
            }
            found.append(
                ScanFile(
                    scan_id=str(row["FILE_ID"]),
                    subject_id=str(row["SUB_ID"]),
                    site=str(row["SITE_ID"]),
                    phenotypes=phenotypes,
                    mean_fd=_number(row.get("func_mean_fd"), missing=-9999),
                    table=np.asarray(table, dtype=np.float32),
                )
            )
        return found

    def table_atlas(self, files: Any) -> Atlas:
        tables = [file.table for file in files if file.table is not None]
        if not tables:
            raise ScanError(f"The cohort {self.name} has no scans for these options.")
        return Atlas.numbered(tables[0].shape[1], self.rois)

    def read(self, file: ScanFile) -> dict[str, Any]:
        t_r = self.t_r_of(file) or ABIDE_T_R.get(file.site or "")
        scan = read_scan(file.table, self.atlas, t_r, max_masked=self.thresholds.max_masked)
        return self.row(scan, file.scan_id, file.mean_fd)


@dataclass
class _ImageCohort(_NilearnSource):
    """Images in MNI space with a table of confounds each."""

    def parameters(self) -> dict[str, Any]:
        return super().parameters() | {"confounds": CONFOUNDS}

    def scan_file(self, row: dict[str, Any], inputs: tuple[Path, ...]) -> ScanFile:
        """The scan of a row of the cohort's table."""
        raise NotImplementedError

    def find(self) -> list[ScanFile]:
        if not self.reads_images:
            raise ScanError(
                f"The cohort {self.name} consists of images: give an atlas that reads images (--atlas)."
            )
        bunch = self.fetch()
        self.t_r = {"": float(bunch.get("t_r", 2.0))} | self.t_r
        found = []
        for row, image, confounds in zip(
            _records(bunch["phenotypic"]), bunch["func"], bunch["confounds"], strict=True
        ):
            found.append(self.scan_file(row, (Path(image), Path(confounds))))
        return found

    def read(self, file: ScanFile) -> dict[str, Any]:
        image, confounds = file.inputs
        scan = read_scan(
            image,
            self.atlas,
            self.t_r_of(file),
            max_masked=self.thresholds.max_masked,
            dtype=np.float64,
        )
        table = require("pandas").read_csv(confounds, sep=None, engine="python")
        if len(table) != len(scan.bold):
            raise ScanError(
                f"{image.name} has {len(scan.bold)} time points, but its confounds have {len(table)} rows."
            )
        columns = [name for name in table if re.search(CONFOUNDS, name)]
        tsnr = median_tsnr(scan)
        scan = denoise(
            scan, table[columns].fillna(0).to_numpy(), label=image.name, min_dof=self.thresholds.min_dof
        )
        mean_fd = file.mean_fd
        if mean_fd is None and "framewise_displacement" in table:
            mean_fd = float(table["framewise_displacement"].mean())
        return self.row(scan, image.name, mean_fd, tsnr)


@dataclass
class AdhdSource(_ImageCohort):
    """The 40 subjects of ADHD-200 that nilearn offers."""

    name = "adhd"
    fetcher = "fetch_adhd"

    def scan_file(self, row: dict[str, Any], inputs: tuple[Path, ...]) -> ScanFile:
        phenotypes = {
            "age": _number(row.get("age")),
            "sex": {"M": "male", "F": "female"}.get(str(row.get("sex"))),
            "diagnosis": {"1": "adhd", "0": "control"}.get(str(row.get("adhd"))),
        }
        subject = str(row["Subject"])
        site = None if row.get("site") is None else str(row["site"])
        return ScanFile(
            f"adhd_{subject}", subject, inputs, None, site, phenotypes, _number(row.get("MeanFD"))
        )


@dataclass
class DevelopmentSource(_ImageCohort):
    """Children and adults who watched a short film."""

    name = "development_fmri"
    fetcher = "fetch_development_fmri"

    def scan_file(self, row: dict[str, Any], inputs: tuple[Path, ...]) -> ScanFile:
        phenotypes = {
            "age": _number(row.get("Age")),
            "sex": {"M": "male", "F": "female"}.get(str(row.get("Gender"))),
            "age_group": row.get("Child_Adult"),
        }
        subject = str(row["participant_id"])
        return ScanFile(f"development_{subject}", subject, inputs, None, None, phenotypes)


def _records(table: Any) -> list[dict[str, Any]]:
    table = require("pandas").DataFrame(table)  # early nilearn gives a record array
    return [{name: plain_value(value) for name, value in row.items()} for row in table.to_dict("records")]


def _number(value: Any, missing: float | None = None) -> float | None:
    return None if value is None or value == missing else float(value)
