"""Turn derivative folders, ROI tables or public cohorts into a scan dataset.

The result is a folder of Parquet shards that `datasets.load_dataset` reads, with one row for each scan (scan_id,
subject_id, session, site, t_r, n_timepoints, bold, roi_mask, mean_fd, phenotypes), the atlas, and a record of how it
was made. Scans that cannot be used are listed in failures.json with the reason. Running the same command again
continues where it stopped.

SOURCE is one of
  fmriprep          sub-*/[ses-*/]func/*_desc-preproc_bold.nii.gz, cleaned with its confounds (--strategy)
  xcpd              XCP-D's atlas time series (--segmentation), or its denoised BOLD read with --atlas
  hcp               <subject>/MNINonLinear/Results/<run>/*.dtseries.nii (with a .dlabel.nii atlas) or *.ptseries.nii
  files             ROI tables (.npy .npz .tsv .csv .mat), with shape (n_timepoints, n_rois), or ready images
  abide_pcp, adhd, development_fmri
                    public cohorts that nilearn downloads into INPUT

--atlas is a name (seitzman_2018, dosenbach_2010, schaefer_400_7networks), an atlas JSON file (with --labels-img if it
was made from a label image), or a .dlabel.nii file. Tables need none: their own ROI names are taken, or numbers.

examples:
  fmri-lm scans fmriprep derivatives/fmriprep --atlas dosenbach_2010 --strategy scrubbing --out scans
  fmri-lm scans xcpd derivatives/xcp_d --segmentation 4S456Parcels --participants participants.tsv --out scans
  fmri-lm scans files tables --pattern '{site}/{subject}.mat' --t-r site_a=0.72 site_b=2.0 --out scans
  fmri-lm scans abide_pcp ~/nilearn_data --rois rois_cc200 --out abide
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..models.atlas import Atlas
    from ..scans import Source

__all__ = ["SOURCE_NAMES", "STRATEGY_NAMES", "add_arguments", "run"]

# The library's own names (`scans.SOURCES`, `scans.denoising.STRATEGIES`), which `--help` tells without loading it.
SOURCE_NAMES = ("fmriprep", "xcpd", "hcp", "files", "abide_pcp", "adhd", "development_fmri")
STRATEGY_NAMES = ("none", "simple", "simple_gsr", "scrubbing", "scrubbing_gsr", "compcor")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `fmri-lm scans`."""
    parser.add_argument("source", metavar="SOURCE", choices=SOURCE_NAMES, help="kind of scans, see above")
    parser.add_argument("input", metavar="INPUT", type=Path, help="folder with the scans")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the dataset, new or to be continued"
    )
    parser.add_argument("--atlas", help="name, atlas JSON file or .dlabel.nii file")
    parser.add_argument(
        "--labels-img", type=Path, help="label image of an atlas JSON file that was made from one"
    )
    parser.add_argument(
        "--participants",
        type=Path,
        help="table of phenotypes by participant_id (default: INPUT/participants.tsv)",
    )
    parser.add_argument("--site", help="site of all scans (default: from the source, or the column `site`)")
    parser.add_argument(
        "--t-r",
        nargs="+",
        default=[],
        metavar="SECONDS",
        help="TR where the scans do not say it: seconds, or SITE=SECONDS for each site",
    )
    parser.add_argument("--match", default="*", help="only files whose path matches, such as '*task-rest*'")
    parser.add_argument(
        "--max-masked",
        type=float,
        default=0.5,
        help="refuse scans with a larger part of unusable ROIs (%(default)s)",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that read scans (%(default)s)")
    parser.add_argument(
        "--shard-mb", type=float, default=300, help="largest BOLD size of a shard in MB (%(default)s)"
    )
    only = parser.add_argument_group("options of one source")
    only.add_argument("--space", help="fmriprep: standard space (MNI152NLin2009cAsym)")
    only.add_argument(
        "--strategy", choices=STRATEGY_NAMES, help="fmriprep: how confounds are regressed out (simple)"
    )
    only.add_argument("--segmentation", help="xcpd: which of its atlases")
    only.add_argument("--pattern", help="files: where {subject}, {session} and {site} stand in the path")
    only.add_argument("--mat-key", help="files: variable of .mat files, of shape (n_rois, n_timepoints) (tc)")
    only.add_argument("--pipeline", help="abide_pcp: preprocessing pipeline (cpac)")
    only.add_argument("--rois", help="abide_pcp: which ROI series (rois_aal)")
    only.add_argument("--n-subjects", type=int, help="public cohorts: only the first so many")


def run(args: argparse.Namespace) -> int:
    """Run `fmri-lm scans`; 1 if no scan could be used."""
    from ..scans import SOURCES, build_scan_dataset, read_participants

    participants_file = args.participants
    if participants_file is None and (args.input / "participants.tsv").exists():
        participants_file = args.input / "participants.tsv"
    kind = SOURCES[args.source]
    source = kind(
        root=args.input,
        atlas=_atlas(args.atlas, args.labels_img),
        site=args.site,
        t_r=_t_r(args.t_r),
        match=args.match,
        max_masked=args.max_masked,
        **_own_options(args, kind),
    )
    summary = build_scan_dataset(
        source,
        args.out,
        participants=None if participants_file is None else read_participants(participants_file),
        workers=args.workers,
        shard_bytes=int(args.shard_mb * 1e6),
    )
    for failure in summary.failures[:10]:
        print(f"failed: {failure['scan_id']}: {failure['reason']}")
    if len(summary.failures) > 10:
        print(f"failed: {len(summary.failures) - 10} more, see {args.out / 'failures.json'}")
    for note in summary.notes:
        print(f"note: {note}")
    print(
        f"{args.out}: {summary.n_new} scans read in {summary.seconds:.1f} s, {summary.n_before} were there before, "
        f"{len(summary.failures)} failed; {summary.n_shards} shards."
    )
    return 0 if summary.n_new + summary.n_before else 1


def _own_options(args: argparse.Namespace, kind: type[Source]) -> dict[str, Any]:
    """Options that only some sources have; refuses those that this one has not."""
    from ..models.scan_images import ScanError

    names = ("space", "strategy", "segmentation", "pattern", "mat_key", "pipeline", "rois", "n_subjects")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    unfit = set(given) - {item.name for item in dataclasses.fields(kind)}
    if unfit:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(unfit))
        raise ScanError(f"The source {args.source} has no option {options}: leave it out.")
    return given


def _atlas(name: str | None, labels_img: Path | None) -> Atlas | None:
    from ..models.atlas import Atlas, ScanError

    if name is None:
        if labels_img is not None:
            raise ScanError("--labels-img belongs to an atlas JSON file: give that with --atlas.")
        return None
    if name.endswith(".dlabel.nii"):
        return Atlas.from_labels_img(name, name=Path(name).name.removesuffix(".dlabel.nii"))
    if name.endswith(".json"):
        return Atlas.from_json(name, labels_img)
    atlas = Atlas.load(name)
    return atlas if labels_img is None else atlas.with_labels_img(labels_img)


def _t_r(words: list[str]) -> dict[str, float]:
    """`["2.0"]` is the TR of all sites, `["a=0.72", "b=2.0"]` that of each."""
    from ..models.scan_images import ScanError

    t_r = {}
    for word in words:
        site, _, seconds = word.rpartition("=")
        try:
            t_r[site] = float(seconds)
        except ValueError as error:
            raise ScanError(
                f"--t-r {word}: expected seconds or SITE=SECONDS, such as 0.72 or site_a=0.72."
            ) from error
    return t_r
