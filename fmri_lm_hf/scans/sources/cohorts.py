"""Public cohorts that nilearn downloads: ABIDE-PCP ROI series, ADHD-200 (a sample), and development fMRI.

The root of these sources is the data folder of nilearn, with or without the cohort in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas

from ...models.atlas import Atlas
from ...models.scan_errors import ScanError
from ..denoising import check_length, denoise, median_tsnr
from .bids import mean_displacement, plain_rows
from .source import ScanFile, Source, SourceScan

# Repetition times in seconds at the sites of ABIDE I, as the initiative publishes them. Its tables omit them.
ABIDE_T_R = {
    **dict.fromkeys(("CALTECH", "CMU", "NYU", "SDSU", "STANFORD", "TRINITY", "UM_1", "UM_2", "USM", "YALE"), 2.0),
    **dict.fromkeys(("KKI", "OHSU"), 2.5),
    **dict.fromkeys(("MAX_MUN", "UCLA_1", "UCLA_2"), 3.0),
    **dict.fromkeys(("OLIN", "PITT"), 1.5),
    **{"LEUVEN_1": 1.656, "LEUVEN_2": 1.667, "SBL": 2.2},
}
# Motion, tissue signals and CompCor components in the confound tables of these cohorts, which name them differently.
CONFOUNDS = r"motion|trans_|rot_|csf|wm|white_matter|compcor|a_comp_cor"


@dataclass
class NilearnSource(Source):
    """A cohort of `nilearn.datasets`.

    Parameters
    ----------
    n_subjects : int, optional
        Number of subjects to read, from the first; all when None.
    """

    n_subjects: int | None = None
    fetcher: ClassVar[str]

    def fetch(self, **options: Any) -> Any:
        """Load the cohort from the folder, or download it."""
        import nilearn.datasets  # slow to load

        fetch = getattr(nilearn.datasets, self.fetcher)
        try:
            return fetch(data_dir=str(self.root), n_subjects=self.n_subjects, **options)
        except OSError as error:
            raise ScanError(
                f"The cohort {self.name} could not be downloaded: go online, or copy its downloads by nilearn into "
                f"{self.root}."
            ) from error


@dataclass
class AbideSource(NilearnSource):
    """ABIDE I of the Preprocessed Connectomes Project, as the ROI series that the project extracted.

    Parameters
    ----------
    pipeline : str
        `"cpac"`, `"css"`, `"dparsf"` or `"niak"`.
    rois : str
        Name of the series, such as `"rois_aal"` or `"rois_cc200"`. Their columns have no names, so ROIs are numbered
        unless an atlas is given.
    """

    pipeline: str = "cpac"
    rois: str = "rois_aal"
    name = "abide_pcp"
    fetcher = "fetch_abide_pcp"

    def find(self) -> list[ScanFile]:
        cohort = self.fetch(pipeline=self.pipeline, derivatives=[self.rois])
        found = []
        for row, table in zip(_rows(cohort["phenotypic"]), cohort[self.rois], strict=True):
            phenotypes = {
                "age": _number(row["AGE_AT_SCAN"]),
                "sex": {1: "male", 2: "female"}.get(row["SEX"]),
                "diagnosis": {1: "autism", 2: "control"}.get(row["DX_GROUP"]),
                "fiq": _number(row.get("FIQ"), missing=-9999),
            }
            file = ScanFile(
                scan_id=str(row["FILE_ID"]),
                subject_id=str(row["SUB_ID"]),
                site=str(row["SITE_ID"]),
                phenotypes=phenotypes,
                mean_fd=_number(row.get("func_mean_fd"), missing=-9999),
                table=np.asarray(table, dtype=np.float32),
            )
            found.append(file)
        return found

    def table_atlas(self, files: Sequence[ScanFile]) -> Atlas:
        tables = [file.table for file in files if file.table is not None]
        if not tables:
            raise ScanError(f"The cohort {self.name} has no scans for these options.")
        return Atlas.numbered(tables[0].shape[1], self.rois)

    def read(self, file: ScanFile) -> SourceScan:
        scan = self.extract(file.table, self.t_r_of(file) or ABIDE_T_R.get(file.site or ""))
        return SourceScan(scan, file.mean_fd)


@dataclass
class ImageCohort(NilearnSource):
    """A cohort of images in MNI space, each with a table of confounds."""

    def parameters(self) -> dict[str, Any]:
        return super().parameters() | {"confounds": CONFOUNDS}

    def scan_file(self, row: dict[str, Any], inputs: tuple[Path, ...]) -> ScanFile:
        """Make the scan of a row in the table of the cohort."""
        raise NotImplementedError

    def find(self) -> list[ScanFile]:
        if not self.reads_images:
            raise ScanError(f"The cohort {self.name} consists of images: give an atlas that reads images (--atlas).")
        cohort = self.fetch()
        # The TR of the command comes second in the union, and so wins over that of the cohort.
        self.t_r = {"": float(cohort.get("t_r", 2.0))} | self.t_r
        scans = zip(_rows(cohort["phenotypic"]), cohort["func"], cohort["confounds"], strict=True)
        return [self.scan_file(row, (Path(image), Path(confounds))) for row, image, confounds in scans]

    def read(self, file: ScanFile) -> SourceScan:
        image, confounds = file.inputs
        scan = self.extract(image, self.t_r_of(file), dtype=np.float64)
        table = pandas.read_csv(confounds, sep=None, engine="python")
        check_length(table, scan, image.name)
        columns = [name for name in table if re.search(CONFOUNDS, name)]
        tsnr = median_tsnr(scan)
        # Derivatives of motion have no first value.
        scan = denoise(scan, table[columns].fillna(0).to_numpy(), label=image.name, min_dof=self.thresholds.min_dof)
        mean_fd = mean_displacement(table) if file.mean_fd is None else file.mean_fd
        return SourceScan(scan, mean_fd, tsnr)


@dataclass
class AdhdSource(ImageCohort):
    """The sample of 40 subjects of ADHD-200 that nilearn downloads."""

    name = "adhd"
    fetcher = "fetch_adhd"

    def scan_file(self, row: dict[str, Any], inputs: tuple[Path, ...]) -> ScanFile:
        subject = str(row["Subject"])
        phenotypes = {
            "age": _number(row.get("age")),
            "sex": {"M": "male", "F": "female"}.get(str(row.get("sex"))),
            "diagnosis": {"1": "adhd", "0": "control"}.get(str(row.get("adhd"))),
        }
        site = None if row.get("site") is None else str(row["site"])
        mean_fd = _number(row.get("MeanFD"))
        return ScanFile(f"adhd_{subject}", subject, inputs, None, site, phenotypes, mean_fd)


@dataclass
class DevelopmentSource(ImageCohort):
    """Children and adults who watched a short film (development fMRI)."""

    name = "development_fmri"
    fetcher = "fetch_development_fmri"

    def scan_file(self, row: dict[str, Any], inputs: tuple[Path, ...]) -> ScanFile:
        subject = str(row["participant_id"])
        phenotypes = {
            "age": _number(row.get("Age")),
            "sex": {"M": "male", "F": "female"}.get(str(row.get("Gender"))),
            "age_group": row.get("Child_Adult"),
        }
        return ScanFile(f"development_{subject}", subject, inputs, phenotypes=phenotypes)


def _rows(table: Any) -> list[dict[str, Any]]:
    return plain_rows(pandas.DataFrame(table))  # early versions of nilearn return a record array


def _number(value: Any, missing: float | None = None) -> float | None:
    return None if value is None or value == missing else float(value)
