"""What was not kept and why, and how good the scans are: `exclusions.tsv` and `quality.html`.

The page is one file without scripts, fonts or pictures from elsewhere, and the same for the same scans.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ..descriptors.column_check import ColumnCheck, Symmetry, symmetry
from ..descriptors.connectivity import GroupConnectivity
from ..files import write_text
from ..models.atlas import Atlas
from .dataset import shard_name
from .sources.source import LeftOut

# Are the columns of the scans the ROIs that the atlas says? A check over a whole dataset, before people use it.

FEWEST_SCANS = 5  # that a scan is compared with
FEWEST_POINTS = 20  # observed, for a connectivity that says anything


@dataclass(frozen=True)
class Fingerprint:
    """What the connectivity of a dataset says about its columns.

    Attributes
    ----------
    n_scans : int
        Scans that were looked at.
    sides : Symmetry
        Of their mean connectivity.
    problems : dict of str to str
        What seems wrong, by scan_id: columns shifted, reversed or repeated.
    """

    n_scans: int
    sides: Symmetry
    problems: dict[str, str]


def fingerprint(rows: Iterable[Mapping[str, Any]], atlas: Atlas) -> Fingerprint:
    """Compare the connectivity of each scan with that of the others, and left with right in their mean.

    Parameters
    ----------
    rows : iterable of mappings
        `scan_id`, `bold`, `roi_mask`, `sample_mask`. All are held in memory as connectivity: give a sample of a
        large dataset.
    atlas : Atlas
    """
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    group = GroupConnectivity(atlas.n_rois)
    for row in rows:
        kept, usable = (np.asarray(row[name], dtype=bool) for name in ("sample_mask", "roi_mask"))
        if kept.sum() < FEWEST_POINTS or usable.sum() < 3:
            continue
        bold = np.asarray(row["bold"], dtype=float)[kept][:, usable]
        with np.errstate(invalid="ignore", divide="ignore"):
            connectivity = np.nan_to_num(np.corrcoef(bold.T)).astype(np.float32)
        found[row["scan_id"]] = connectivity, usable
        group.add(connectivity, usable)
    problems = {}
    for scan_id, (connectivity, usable) in found.items():
        if len(found) <= FEWEST_SCANS:
            break
        others = group.mean_without(connectivity, usable)
        problem = ColumnCheck(others, atlas).problem(connectivity, usable)
        if problem is not None:
            problems[scan_id] = problem.replace("the training scans", "the other scans")
    return Fingerprint(len(found), symmetry(group.mean, atlas), problems)


N_CARPETS = 6
N_COMPARED = 200  # scans of a large dataset whose connectivity is compared
N_LISTED = 500  # rows of the table of exclusions on the page; the file has all
LIGHT = (
    "scan_id",
    "subject_id",
    "site",
    "t_r",
    "n_timepoints",
    "mean_fd",
    "roi_mask",
    "sample_mask",
    "coverage",
)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; } th, td { padding: .2em .8em; border-bottom: 1px solid #ddd; }
th { text-align: left; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
figure { display: inline-block; margin: .5em 1.5em .5em 0; vertical-align: top; } figcaption { font-size: 13px; }
svg rect { fill: #4a7ab5; } svg text { font: 11px sans-serif; fill: #444; }
"""


@dataclass(frozen=True)
class _Quality:
    """What is shown of a scan."""

    scan_id: str
    site: str
    subject_id: str
    shard: int
    row: int
    t_r: float
    minutes: float  # left after censoring
    mean_fd: float
    tsnr: float
    censored: float  # share
    masked: int  # ROIs
    coverage: float  # smallest of an ROI


# Title, attribute, decimals, and whether large values are the bad ones.
MEASURES = (
    ("Mean framewise displacement (mm)", "mean_fd", 3, True),
    ("tSNR (median over ROIs, before confounds are regressed out)", "tsnr", 1, False),
    ("Time points censored (%)", "censored", 1, True),
    ("Minutes left", "minutes", 1, False),
    ("ROIs masked", "masked", 0, True),
    ("Smallest coverage of an ROI (%)", "coverage", 0, False),
)


def exclusions(
    failures: Sequence[Mapping[str, str]], left_out: Sequence[LeftOut], without_scans: Sequence[str]
) -> list[dict[str, str]]:
    """A row for each scan, file or participant that is not in the dataset.

    Returns
    -------
    list of dict
        `outcome` (dropped, left out, no scan), `scan_id`, `input` and `reason`.
    """
    dropped = [
        {"outcome": "dropped", "scan_id": each["scan_id"], "input": each["input"], "reason": each["reason"]}
        for each in failures
    ]
    files = [
        {"outcome": "left out", "scan_id": "n/a", "input": each.name, "reason": each.reason}
        for each in left_out
    ]
    missing = [
        {"outcome": "no scan", "scan_id": "n/a", "input": name, "reason": "participant without scans"}
        for name in without_scans
    ]
    return dropped + files + missing


def write_quality(
    out: Path,
    scans: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, str]],
    left_out: Sequence[LeftOut],
    without_scans: Sequence[str],
) -> None:
    """Write `exclusions.tsv` and `quality.html` into the folder of a scan dataset.

    Parameters
    ----------
    out : Path
    scans : sequence of mappings
        The records of its provenance.
    failures, left_out, without_scans
        As of a `BuildSummary`; the last are participants.
    """
    excluded = exclusions(failures, left_out, without_scans)
    table = io.StringIO()
    writer = csv.DictWriter(
        table, ("outcome", "scan_id", "input", "reason"), delimiter="\t", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows({key: " ".join(value.split()) for key, value in row.items()} for row in excluded)
    write_text(table.getvalue(), out / "exclusions.tsv")
    quality = _read(out, scans)
    page = _page(out, quality, excluded, len(failures), len(left_out), len(without_scans))
    write_text(page, out / "quality.html")


def _read(out: Path, scans: Sequence[Mapping[str, Any]]) -> list[_Quality]:
    tsnr = {scan["scan_id"]: scan.get("tsnr") for scan in scans}
    found = []
    for number in range(len({scan["shard"] for scan in scans})):
        rows = pq.read_table(out / shard_name(number), columns=list(LIGHT)).to_pylist()
        for index, row in enumerate(rows):
            n_left = sum(row["sample_mask"])
            coverage = [value for value in row["coverage"] or () if value == value]
            found.append(
                _Quality(
                    row["scan_id"],
                    row["site"] or "unknown",
                    row["subject_id"],
                    number,
                    index,
                    row["t_r"],
                    n_left * row["t_r"] / 60,
                    _or_nan(row["mean_fd"]),
                    _or_nan(tsnr.get(row["scan_id"])),
                    100 * (1 - n_left / row["n_timepoints"]),
                    len(row["roi_mask"]) - sum(row["roi_mask"]),
                    100 * min(coverage) if coverage else np.nan,
                )
            )
    return found


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def _page(
    out: Path,
    quality: Sequence[_Quality],
    excluded: Sequence[Mapping[str, str]],
    n_dropped: int,
    n_left_out: int,
    n_without: int,
) -> str:
    n_found = len(quality) + n_dropped
    subjects = len({scan.subject_id for scan in quality})
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>Quality of the scans</title>",
        f"<style>{STYLE}</style><h1>Quality of the scans</h1>",
        f"<p>{n_found} scans found: {len(quality)} kept (of {subjects} participants), {n_dropped} dropped. "
        f"{n_left_out} files left out. {n_without} participants without scans.</p>",
    ]
    if quality:
        parts += ["<h2>By site</h2>", _sites(quality), "<h2>Distributions</h2>"]
        parts += [_histogram(title, [getattr(s, name) for s in quality]) for title, name, _, _ in MEASURES]
        parts += ["<h2>Columns</h2>", *_columns(out, quality)]
        parts += ["<h2>Worst scans</h2>", *_carpets(out, quality)]
    if excluded:
        parts += ["<h2>Not in the dataset</h2>", _table(excluded[:N_LISTED])]
        if len(excluded) > N_LISTED:
            parts.append(f"<p>{len(excluded) - N_LISTED} more in exclusions.tsv.</p>")
    return "\n".join(parts) + "</html>\n"


def _sites(quality: Sequence[_Quality]) -> str:
    """Medians of every site."""
    rows = []
    for site in sorted({scan.site for scan in quality}):
        members = [scan for scan in quality if scan.site == site]
        cells = [
            f"<td>{html.escape(site)}<td class=n>{len(members)}<td class=n>{len({m.subject_id for m in members})}"
        ]
        cells.append(f"<td class=n>{', '.join(f'{t_r:g}' for t_r in sorted({m.t_r for m in members})[:4])}")
        for _, name, digits, _ in MEASURES:
            values = [getattr(m, name) for m in members]
            known = [value for value in values if value == value]
            cells.append(f"<td class=n>{np.median(known):.{digits}f}" if known else "<td class=n>-")
        rows.append("<tr>" + "".join(cells))
    titles = "".join(f"<th>{html.escape(title.partition(' (median')[0])}" for title, *_ in MEASURES)
    return (
        "<p>Medians.</p><table><tr><th>Site<th>Scans<th>Participants<th>TR (s)"
        + titles
        + "".join(rows)
        + "</table>"
    )


def _table(rows: Iterable[Mapping[str, str]]) -> str:
    body = "".join("<tr>" + "".join(f"<td>{html.escape(value)}" for value in row.values()) for row in rows)
    return f"<table><tr><th>Outcome<th>Scan<th>File or participant<th>Reason{body}</table>"


def _histogram(title: str, values: Sequence[float]) -> str:
    known = np.array([value for value in values if np.isfinite(value)])
    caption = f"<figcaption>{html.escape(title)}"
    if not known.size:
        return f"<figure>{caption}: not known</figcaption></figure>"
    low, high = float(known.min()), float(known.max())
    counts, _ = np.histogram(known, bins=24, range=(low, high if high > low else low + 1))
    bars = "".join(
        f'<rect x="{10 * i}" y="{80 - 80 * n / counts.max():.1f}" width="9" height="{80 * n / counts.max():.1f}"/>'
        for i, n in enumerate(counts)
    )
    ends = f'<text x="0" y="96">{low:.3g}</text><text x="240" y="96" text-anchor="end">{high:.3g}</text>'
    unknown = f", {len(values) - known.size} not known" if known.size < len(values) else ""
    svg = f'<svg width="240" height="100" role="img">{bars}{ends}</svg>'
    return f"<figure>{svg}{caption} (median {np.median(known):.3g}{unknown})</figcaption></figure>"


def _columns(out: Path, quality: Sequence[_Quality]) -> list[str]:
    """Whether the columns are the ROIs that the atlas names."""

    sample = quality[:: max(1, -(-len(quality) // N_COMPARED))]
    checked = fingerprint(_rows(out, sample), Atlas.from_json(out / "atlas.json"))
    sides = checked.sides
    parts = [f"<p>{checked.n_scans} scans compared by their connectivity."]
    if np.isfinite(sides.homotopic):
        parts.append(
            f"Over {sides.n_pairs} pairs of mirrored ROIs: correlation of mirrored ROIs {sides.homotopic:.2f}, of "
            f"other pairs across the midline {sides.heterotopic:.2f}; left side with right side {sides.left_right:.2f}."
        )
    if sides.problem:
        parts.append(f"<b>{html.escape(sides.problem)}</b>")
    for scan_id, problem in checked.problems.items():
        parts.append(f"<br><b>{html.escape(scan_id)}</b>: {html.escape(problem)}")
    return parts


def _carpets(out: Path, quality: Sequence[_Quality]) -> list[str]:
    """Carpet plots of the scans that stand out most in any measure."""
    worst = np.zeros(len(quality))
    for _, name, _, large_is_bad in MEASURES:
        values = np.array([getattr(scan, name) for scan in quality], dtype=float)
        if name == "minutes" or np.isfinite(values).sum() < 2:
            continue
        spread = np.nanstd(values)
        if spread > 0:
            z = (values - np.nanmedian(values)) / spread * (1 if large_is_bad else -1)
            worst = np.fmax(worst, z)
    order = np.argsort(-worst, kind="stable")[:N_CARPETS]
    figures = [
        "<p>ROIs in the order of the atlas over time, in SDs of each (black -3, white 3); red: censored.</p>"
    ]
    rows = {row["scan_id"]: row for row in _rows(out, [quality[index] for index in order])}
    for index in order:
        scan = quality[index]
        row = rows[scan.scan_id]
        bold, kept = np.asarray(row["bold"], dtype=float), np.asarray(row["sample_mask"], dtype=bool)
        picture = base64.b64encode(_png(_carpet(bold, kept))).decode()
        facts = [
            f"{scan.minutes:.1f} min left",
            f"{scan.censored:.0f} % censored",
            f"{scan.masked} ROIs masked",
        ]
        if np.isfinite(scan.mean_fd):
            facts.insert(0, f"FD {scan.mean_fd:.2f} mm")
        caption = html.escape(f"{scan.scan_id}, {scan.site}: {', '.join(facts)}")
        figures.append(
            f'<figure><img width="480" height="200" alt="carpet plot" src="data:image/png;base64,{picture}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return figures


def _rows(out: Path, scans: Sequence[_Quality]) -> Iterator[dict[str, Any]]:
    """Scans with their signals and masks; each row group is read once."""
    wanted: dict[int, set[int]] = {}
    for scan in scans:
        wanted.setdefault(scan.shard, set()).add(scan.row)
    for number in sorted(wanted):
        with pq.ParquetFile(out / shard_name(number)) as shard:
            first = 0
            for group in range(shard.num_row_groups):
                n_rows = shard.metadata.row_group(group).num_rows
                inside = sorted(row - first for row in wanted[number] if first <= row < first + n_rows)
                first += n_rows
                if not inside:
                    continue
                table = shard.read_row_group(group, columns=["scan_id", "bold", "roi_mask", "sample_mask"])
                for row in inside:
                    light = {name: table[name][row].as_py() for name in table.column_names if name != "bold"}
                    numbers = table["bold"][row].value.values.flatten().to_numpy(zero_copy_only=False)
                    yield light | {"bold": numbers.reshape(len(light["sample_mask"]), -1)}


def _carpet(bold: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """RGB picture (at most 400 ROIs, at most 600 time points, 3)."""
    centred = bold - bold[kept].mean(axis=0)
    deviation = centred[kept].std(axis=0)
    z = (centred / np.where(deviation > 0, deviation, 1)).T
    grey = np.clip((z + 3) / 6 * 255, 0, 255).astype(np.uint8)
    picture = np.repeat(grey[..., None], 3, axis=2)
    picture[:, ~kept, 1:] //= 3
    return picture[:: max(1, -(-len(picture) // 400)), :: max(1, -(-picture.shape[1] // 600))]


def _png(picture: np.ndarray) -> bytes:
    """An RGB picture (height, width, 3) of bytes as PNG."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    height, width, _ = picture.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), picture.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines.tobytes(), 6)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data
