"""Turn derivative folders, ROI tables or public cohorts into a scan dataset.

The result is a folder of Parquet shards that `datasets.load_dataset` reads, with one row for each scan (scan_id,
subject_id, session, site, t_r, n_timepoints, bold, roi_mask, mean_fd, phenotypes), the atlas, and a record of how it
was made. Scans that cannot be used are listed in failures.json with the reason; exclusions.tsv lists all that is not in
the dataset, and quality.html shows how good the scans are. Running the same command again continues where it stopped
and brings in new scans and phenotypes. `--dry-run` tells what would be read.

SOURCE is one of
  fmriprep          sub-*/[ses-*/]func/*_desc-preproc_bold.nii.gz, cleaned with its confounds (--strategy); with an
                    atlas of surfaces *_bold.dtseries.nii, or *_bold.func.gii of --space fsaverage5 and the like
  xcpd              XCP-D's atlas time series (--segmentation), or its denoised BOLD read with --atlas, in volumes or
                    (.dtseries.nii) on surfaces
  hcp               <subject>/MNINonLinear/Results/<run>/*.dtseries.nii (with a .dlabel.nii atlas) or *.ptseries.nii
  files             ROI tables (.npy .npz .tsv .csv .mat), with shape (n_timepoints, n_rois), or ready images (.nii
                    .nii.gz .func.gii)
  abide_pcp, adhd, development_fmri
                    public cohorts that nilearn downloads into INPUT

--atlas is a name (seitzman_2018, dosenbach_2010, schaefer_400_7networks), an atlas JSON file (with --labels-img if it
was made from a label image), a .dlabel.nii file, or the .label.gii file of one hemisphere (with the other one beside
it). Tables need none: their own ROI names are taken, or numbers.

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
    from ..scans.sources import ScanFile


# The library's own names (`scans.SOURCES`, `scans.denoising.STRATEGIES`), which `--help` tells without loading it.
SOURCE_NAMES = ("fmriprep", "xcpd", "hcp", "files", "abide_pcp", "adhd", "development_fmri")
STRATEGY_NAMES = ("none", "simple", "simple_gsr", "scrubbing", "scrubbing_gsr", "compcor")

# The library's own thresholds (`scans.sources.selection.Thresholds`), likewise: name, type, default, explanation.
THRESHOLDS: tuple[tuple[str, type, float | None, str], ...] = (
    ("max_masked", float, 0.5, "refuse scans with a larger share of unusable ROIs"),
    ("min_coverage", float, 0.5, "mask ROIs with signal in a smaller share of their voxels"),
    (
        "min_minutes",
        float,
        1.0,
        "refuse scans with less left after censoring; 4 to 5 are common for connectivity",
    ),
    ("max_censored", float, 0.8, "refuse scans with a larger share of censored time points"),
    ("max_mean_fd", float, None, "refuse scans with a larger mean framewise displacement, in mm"),
    ("min_dof", int, 20, "refuse scans with fewer residual degrees of freedom after confound regression"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `fmri-lm scans`."""
    parser.add_argument("source", metavar="SOURCE", choices=SOURCE_NAMES, help="kind of scans, see above")
    parser.add_argument("input", metavar="INPUT", type=Path, help="folder with the scans")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the dataset, new or to be continued"
    )
    parser.add_argument("--atlas", help="name, atlas JSON file, .dlabel.nii or .label.gii file")
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
        "--dry-run",
        action="store_true",
        help="tell what would be read, and what left out and why; write nothing",
    )
    parser.add_argument(
        "--controlled",
        action="store_true",
        help="a data-use agreement binds the cohort: its scans are not published without --confirm-controlled",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that read scans (%(default)s)")
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="Dask scheduler to read on, such as tcp://node01:8786"
    )
    parser.add_argument(
        "--shard-mb", type=float, default=300, help="largest BOLD size of a shard in MB (%(default)s)"
    )
    chosen = parser.add_argument_group("which scans")
    for option, entity in {
        "participant-label": "sub",
        "session": "ses",
        "task": "task",
        "run": "run",
    }.items():
        destination = (
            "run_label" if option == "run" else option.replace("-", "_")
        )  # `run` is the command's function
        chosen.add_argument(
            f"--{option}",
            nargs="+",
            metavar="LABEL",
            dest=destination,
            help=f"only scans with these {entity}-",
        )
    chosen.add_argument(
        "--bids-filter-file", type=Path, help='JSON as of fMRIPrep, such as {"bold": {"task": "rest"}}'
    )
    enough = parser.add_argument_group("which scans are good enough")
    for name, kind, default, explanation in THRESHOLDS:
        shown = "no limit" if default is None else default
        enough.add_argument(
            f"--{name.replace('_', '-')}", type=kind, default=default, help=f"{explanation} ({shown})"
        )
    only = parser.add_argument_group("options of one source")
    only.add_argument(
        "--space", help="fmriprep: standard space, or surface such as fsaverage5 (MNI152NLin2009cAsym; fsLR)"
    )
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
    from ..scans import SOURCES, build_scan_dataset, find_scans, read_participants
    from ..scans.sources.bids import Selection, Thresholds

    participants_file = args.participants
    if participants_file is None and (args.input / "participants.tsv").exists():
        participants_file = args.input / "participants.tsv"
    participants = None if participants_file is None else read_participants(participants_file)
    kind = SOURCES[args.source]
    source = kind(
        root=args.input,
        atlas=_atlas(args.atlas, args.labels_img),
        site=args.site,
        t_r=_t_r(args.t_r),
        match=args.match,
        selection=Selection.of(
            args.bids_filter_file,
            participant_label=args.participant_label,
            session=args.session,
            task=args.task,
            run=args.run_label,
        ),
        thresholds=Thresholds(**{name: getattr(args, name) for name, *_ in THRESHOLDS}),
        **_own_options(args, kind),
    )
    if args.dry_run:
        return _dry_run(source, find_scans(source, participants))
    summary = build_scan_dataset(
        source,
        args.out,
        participants=participants,
        controlled=args.controlled,
        workers=args.workers,
        scheduler=args.scheduler,
        shard_bytes=int(args.shard_mb * 1e6),
    )
    for failure in summary.failures[:10]:
        print(f"failed: {failure['scan_id']}: {failure['reason']}")
    if len(summary.failures) > 10:
        print(f"failed: {len(summary.failures) - 10} more, see {args.out / 'failures.json'}")
    for note in summary.notes:
        print(f"note: {note}")
    if summary.left_out:
        print(f"note: {len(summary.left_out)} files were left out, see {args.out / 'exclusions.tsv'}.")
    print(
        f"{args.out}: {summary.n_new} scans read in {summary.seconds:.1f} s, {summary.n_before} were there before, "
        f"{len(summary.failures)} failed; {summary.n_shards} shards."
    )
    return 0 if summary.n_new + summary.n_before else 1


def _dry_run(source: Source, files: list[ScanFile]) -> int:
    """Print what would be read, with what, and what left out."""
    for file in files:
        names = " ".join(source.relative(path) for path in file.inputs) or "(from the cohort's table)"
        t_r = source.t_r_of(file)
        given = "" if t_r is None else f" TR {t_r:g} s"
        print(f"read: {file.scan_id} ({file.subject_id}, site {file.site}{given}): {names}")
    for each in source.left_out:
        print(f"left out: {each.name}: {each.reason}")
    subjects = len({file.subject_id for file in files})
    print(
        f"{len(files)} scans of {subjects} participants would be read, {len(source.left_out)} files left out."
    )
    return 0


def _own_options(args: argparse.Namespace, kind: type[Source]) -> dict[str, Any]:
    """Options that only some sources have; refuses those that this one has not."""
    from ..models.scan_errors import ScanError

    names = ("space", "strategy", "segmentation", "pattern", "mat_key", "pipeline", "rois", "n_subjects")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    unfit = set(given) - {item.name for item in dataclasses.fields(kind)}
    if unfit:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(unfit))
        raise ScanError(f"The source {args.source} has no option {options}: leave it out.")
    return given


def _atlas(name: str | None, labels_img: Path | None) -> Atlas | None:
    from ..models.atlas import Atlas
    from ..models.image_files import both_hemispheres
    from ..models.scan_errors import ScanError

    if name is None:
        if labels_img is not None:
            raise ScanError("--labels-img belongs to an atlas JSON file: give that with --atlas.")
        return None
    if name.endswith(".dlabel.nii"):
        return Atlas.from_labels_img(name, name=Path(name).name.removesuffix(".dlabel.nii"))
    if name.endswith(".label.gii"):
        return Atlas.from_labels_img(name, name=both_hemispheres(name)[0].removesuffix(".label.gii"))
    if name.endswith(".json"):
        return Atlas.from_json(name, labels_img)
    atlas = Atlas.load(name)
    return atlas if labels_img is None else atlas.with_labels_img(labels_img)


def _t_r(words: list[str]) -> dict[str, float]:
    """`["2.0"]` is the TR of all sites, `["a=0.72", "b=2.0"]` that of each."""
    from ..models.scan_errors import ScanError

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
