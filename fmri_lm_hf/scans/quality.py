"""Report exclusions and quality of a scan dataset: `exclusions.tsv` and `quality.html`.

The page loads nothing from elsewhere, and equal scans give equal bytes.
"""

from __future__ import annotations

import html
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow.parquet as pq

from ..descriptors.column_check import ColumnCheck, symmetry
from ..descriptors.connectivity import GroupConnectivity
from ..files import write_text
from ..models.atlas import Atlas
from ..pages import heading, html_table, new_figure, page, paragraph, picture
from .dataset import shard_name
from .sources.source import Failure, LeftOut

N_CARPETS = 6
N_COMPARED = 200  # largest number of scans whose connectivity is compared
MIN_OTHERS = 5  # fewest scans to compare a scan with
MIN_POINTS = 20  # fewest observed time points for a usable connectivity
N_LISTED = 500  # exclusions on the page; the file has all
# Title and decimals of each measure, and the sign of bad values.
MEASURES = {
    "mean_fd": ("Mean framewise displacement (mm)", 3, 1),
    "tsnr": ("tSNR (median over ROIs, before regression)", 1, -1),
    "censored": ("Time points censored (%)", 1, 1),
    "minutes": ("Minutes left", 1, -1),
    "masked": ("ROIs masked", 0, 1),
    "coverage": ("Smallest coverage of an ROI (%)", 0, -1),
}


def write_quality(
    out: Path,
    scans: Sequence[Mapping[str, Any]],
    failures: Sequence[Failure],
    left_out: Sequence[LeftOut],
    without_scans: Sequence[str],
) -> None:
    """Write `exclusions.tsv` and `quality.html` into the folder of a scan dataset.

    Parameters
    ----------
    out : Path
    scans : sequence of mappings
        The records of its provenance.
    failures : sequence of Failure
        Scans that could not be used.
    left_out : sequence of LeftOut
        Files that were not read.
    without_scans : sequence of str
        Participants without scans.
    """
    rows = [("dropped", failure["scan_id"], failure["input"], failure["reason"]) for failure in failures]
    rows += [("left out", "n/a", file.name, file.reason) for file in left_out]
    rows += [("no scan", "n/a", name, "participant without scans") for name in without_scans]
    excluded = pandas.DataFrame(rows, columns=["outcome", "scan_id", "input", "reason"], dtype=str)
    excluded = excluded.replace(r"\s+", " ", regex=True)  # one line each
    write_text(excluded.to_csv(sep="\t", index=False, lineterminator="\n"), out / "exclusions.tsv")

    quality = _measure(out, scans)
    parts = [
        paragraph(
            f"{len(quality) + len(failures)} scans found: {len(quality)} kept (of {quality['subject_id'].nunique()} "
            f"participants), {len(failures)} dropped. {len(left_out)} files left out. {len(without_scans)} "
            "participants without scans."
        )
    ]
    if len(quality):
        parts += [heading("Sites"), paragraph("Medians of each site."), _site_table(quality)]
        parts += [heading("Distributions"), _histograms(quality)]
        parts += [heading("Columns"), *_check_columns(out, quality)]
        parts += [heading("Worst scans"), *_carpet_plots(out, quality)]
    if len(excluded):
        head = ["Outcome", "Scan", "File or participant", "Reason"]
        parts.append(heading("Not in the dataset"))
        parts.append(html_table(head, excluded[:N_LISTED].values.tolist(), text=True))
        if len(excluded) > N_LISTED:
            parts.append(paragraph(f"{len(excluded) - N_LISTED} more in exclusions.tsv."))
    write_text(page("Quality of the scans", parts), out / "quality.html")


def _measure(out: Path, scans: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """Measure the quality of each scan, and find its row in the shards."""
    columns = ["scan_id", "subject_id", "site", "t_r", "mean_fd", "roi_mask", "sample_mask", "coverage"]
    # Everything but the signals: of a large dataset, these do not fit into memory.
    shards = sorted({scan["shard"] for scan in scans})
    tables = [pq.read_table(out / shard, columns=columns).to_pandas() for shard in shards]
    if not tables:
        return pandas.DataFrame(columns=columns)
    frame = pandas.concat(tables, keys=range(len(tables)), names=["shard", "row"]).reset_index()
    kept, roi_mask = frame.pop("sample_mask"), frame.pop("roi_mask")
    tsnr = {scan["scan_id"]: scan.get("tsnr") for scan in scans}
    return frame.assign(
        site=frame["site"].fillna("unknown"),
        mean_fd=frame["mean_fd"].astype(float),
        tsnr=frame["scan_id"].map(tsnr).astype(float),
        censored=100 * (1 - kept.map(np.mean)),
        minutes=kept.map(np.sum) * frame["t_r"] / 60,
        masked=[int((~mask).sum()) for mask in roi_mask],
        coverage=[_smallest_percentage(coverage) for coverage in frame["coverage"]],
    )


def _smallest_percentage(coverage: np.ndarray | None) -> float:
    known = [] if coverage is None else coverage[np.isfinite(coverage)]
    return 100 * min(known, default=np.nan)


def _site_table(quality: pandas.DataFrame) -> str:
    rows = []
    for site, scans in quality.groupby("site"):
        t_rs = ", ".join(f"{t_r:g}" for t_r in sorted(scans["t_r"].unique())[:4])
        row = [str(site), str(len(scans)), str(scans["subject_id"].nunique()), t_rs]
        for name, (_, digits, _) in MEASURES.items():
            median = scans[name].median()
            row.append("-" if np.isnan(median) else f"{median:.{digits}f}")
        rows.append(row)
    titles = [title.partition(" (median")[0] for title, *_ in MEASURES.values()]
    return html_table(["Site", "Scans", "Participants", "TR (s)", *titles], rows)


def _histograms(quality: pandas.DataFrame) -> str:
    figure = new_figure(figsize=(12, 6))
    for axes, (name, (title, _, _)) in zip(figure.subplots(2, 3).flat, MEASURES.items(), strict=True):
        known = quality[name].dropna()
        axes.stairs(*np.histogram(known, bins=24), fill=True)  # one path, where `axes.hist` draws 24 patches
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel(f"median {known.median():.3g} of {len(known)} scans" if len(known) else "not known")
    figure.subplots_adjust(hspace=0.4)
    return picture(figure, "Histograms of the measures of quality")


def _check_columns(out: Path, quality: pandas.DataFrame) -> Iterator[str]:
    """Compare the connectivity of each scan with that of the others, and left with right in their mean.

    All connectivity is in memory, so that of a large dataset only a sample is compared.
    """
    atlas = Atlas.from_json(out / "atlas.json")
    compared: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    group = GroupConnectivity(atlas.n_rois)
    for row in _read_rows(out, quality[:: max(1, -(-len(quality) // N_COMPARED))]):
        kept, usable = row["sample_mask"], row["roi_mask"]
        if kept.sum() < MIN_POINTS or usable.sum() < 3:
            continue
        # In float64, and with zeros for ROIs that only vary while censored: a report must not fail over a single ROI.
        with np.errstate(invalid="ignore", divide="ignore"):
            connectivity = np.nan_to_num(np.corrcoef(row["bold"][kept][:, usable].T)).astype(np.float32)
        compared[row["scan_id"]] = connectivity, usable
        group.add(connectivity, usable)
    yield paragraph(f"{len(compared)} scans compared by their connectivity.")
    sides = symmetry(group.mean, atlas)
    if np.isfinite(sides.homotopic):
        yield paragraph(
            f"Over {sides.n_pairs} pairs of mirrored ROIs: correlation of mirrored ROIs {sides.homotopic:.2f}, of "
            f"other pairs across the midline {sides.heterotopic:.2f}; left side with right side {sides.left_right:.2f}."
        )
    if sides.problem:
        yield paragraph(sides.problem, "warning")
    if len(compared) > MIN_OTHERS:
        for scan_id, (connectivity, usable) in compared.items():
            others = group.mean_without(connectivity, usable)
            problem = ColumnCheck(others, atlas, "the other scans").problem(connectivity, usable)
            if problem is not None:
                yield f"<p class='warning'><b>{html.escape(scan_id)}</b>: {html.escape(problem)}</p>"


def _carpet_plots(out: Path, quality: pandas.DataFrame) -> Iterator[str]:
    """Draw carpet plots of the worst scans in any measure except the length, which is a choice of the study."""
    from matplotlib.image import imsave

    names = [name for name in MEASURES if name != "minutes" and quality[name].notna().sum() > 1]
    values = quality[names] * [MEASURES[name][2] for name in names]  # large values are bad now
    # In SDs of each measure, so that millimetres and percentages can be compared; the worst measure of a scan counts.
    z = (values - values.median()) / values.std(ddof=0)
    worst = quality.loc[(-z.max(axis=1).fillna(0).clip(lower=0)).sort_values(kind="stable").index[:N_CARPETS]]
    rows = {row["scan_id"]: row for row in _read_rows(out, worst)}
    yield paragraph("ROIs in the order of the atlas over time, in SDs of each (black -3, white 3); red: censored.")
    for scan in worst.itertuples():
        pixels = io.BytesIO()
        imsave(pixels, _carpet(rows[scan.scan_id]["bold"], rows[scan.scan_id]["sample_mask"]), format="png")
        facts = [
            *([f"FD {scan.mean_fd:.2f} mm"] if np.isfinite(scan.mean_fd) else []),
            f"{scan.minutes:.1f} min left",
            f"{scan.censored:.0f} % censored",
            f"{scan.masked} ROIs masked",
        ]
        caption = f"{scan.scan_id}, {scan.site}: {', '.join(facts)}"
        yield picture(pixels.getvalue(), "carpet plot", caption)


def _carpet(bold: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Draw at most 400 ROIs and 600 time points as an RGB picture, (height, width, 3)."""
    centred = bold - bold[kept].mean(axis=0)
    deviation = centred[kept].std(axis=0)
    z = (centred / np.where(deviation > 0, deviation, 1)).T
    grey = np.clip((z + 3) / 6 * 255, 0, 255).astype(np.uint8)
    pixels = np.repeat(grey[..., None], 3, axis=2)
    pixels[:, ~kept, 1:] //= 3  # censored time points turn red
    pixels = pixels[:: max(1, -(-len(pixels) // 400)), :: max(1, -(-pixels.shape[1] // 600))]
    return pixels.repeat(-(-200 // len(pixels)), axis=0).repeat(-(-480 // pixels.shape[1]), axis=1)


def _read_rows(out: Path, scans: pandas.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield signals and masks of scans, in the order of the shards; each row group is read once."""
    for number, chosen in scans.groupby("shard"):
        with pq.ParquetFile(out / shard_name(number)) as shard:
            sizes = [shard.metadata.row_group(group).num_rows for group in range(shard.num_row_groups)]
            stops = np.cumsum(sizes)
            groups = np.searchsorted(stops, chosen["row"], side="right")
            for group, rows in chosen["row"].groupby(groups):
                table = shard.read_row_group(group, columns=["scan_id", "bold", "roi_mask", "sample_mask"])
                for row in sorted(rows - (stops[group] - sizes[group])):
                    masks = {name: np.array(table[name][row].as_py()) for name in ("roi_mask", "sample_mask")}
                    bold = table["bold"][row].value.values.flatten().to_numpy(zero_copy_only=False)
                    bold = bold.reshape(len(masks["sample_mask"]), -1).astype(float)
                    yield {"scan_id": table["scan_id"][row].as_py(), "bold": bold, **masks}
