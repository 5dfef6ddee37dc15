"""Turn derivative folders, ROI tables or public cohorts into a scan dataset.

A scan dataset is a folder of Parquet files that `datasets.load_dataset` reads, with a row for each scan, its atlas, and
a record of its parameters. failures.json lists the scans that cannot be used, exclusions.tsv everything that is not in
the dataset, with the reason; quality.html shows the quality of the scans. The same command continues an interrupted
run, adds new scans and updates phenotypes.

SOURCE and the files that it reads below INPUT:
  fmriprep          *_desc-preproc_bold.nii.gz, cleaned with its confounds (--strategy none, simple, simple_gsr,
                    scrubbing, scrubbing_gsr, compcor); surfaces: *_bold.dtseries.nii, *_bold.func.gii
  xcpd              XCP-D's atlas time series (--segmentation), or its denoised BOLD (--atlas)
  hcp               <subject>/MNINonLinear/Results/<run>/*.dtseries.nii (with a .dlabel.nii atlas) or *.ptseries.nii
  files             ROI tables (.npy .npz .tsv .csv .mat), of shape (n_timepoints, n_rois), or images that need no
                    further cleaning (.nii .nii.gz .func.gii)
  abide_pcp, adhd, development_fmri
                    public cohorts, which nilearn downloads into INPUT

ATLAS is a name (seitzman_2018, dosenbach_2010, schaefer_400_7networks), a file of `fmri-lm atlas` (.json), a
.dlabel.nii file, or the .label.gii file of one hemisphere with the other in the same folder. Tables need none: they
name their ROIs, or these are numbered.

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

from .one_scan import find_atlas

if TYPE_CHECKING:
    from ..scans.sources import ScanFile, Source

# The keys of `scans.SOURCES`: importing these would take seconds, and `--help` should not.
SOURCE_NAMES = ("fmriprep", "xcpd", "hcp", "files", "abide_pcp", "adhd", "development_fmri")
# Options that only some sources have.
SOURCE_OPTIONS: dict[str, dict[str, Any]] = {
    "space": {"help": "fmriprep: MNI152NLin2009cAsym, fsLR, fsaverage5, ..."},
    "strategy": {"metavar": "NAME", "help": "fmriprep: confounds to regress out (simple)"},
    "segmentation": {"metavar": "NAME", "help": "xcpd: which of its atlases"},
    "pattern": {"help": "files: path with {subject}, {session} and {site}"},
    "mat_key": {"metavar": "NAME", "help": "files: variable of shape (n_rois, n_timepoints) (tc)"},
    "pipeline": {"metavar": "NAME", "help": "abide_pcp: preprocessing pipeline (cpac)"},
    "rois": {"metavar": "NAME", "help": "abide_pcp: ROI series (rois_aal)"},
    "n_subjects": {"type": int, "metavar": "N", "help": "public cohorts: only the first N"},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fmri-lm scans`."""
    from ..scans.denoising import STRATEGIES, Thresholds

    parser.usage = "fmri-lm scans SOURCE INPUT --out FOLDER [options]"
    add = parser.add_argument
    add("source", metavar="SOURCE", choices=SOURCE_NAMES, help="kind of scans, see above")
    add("input", metavar="INPUT", type=Path, help="folder with the scans")
    add("--out", type=Path, metavar="FOLDER", required=True, help="dataset, new or to be continued")
    add("--dry-run", action="store_true", help="only list the scans and files that would be read or left out")

    add = parser.add_argument_group("data").add_argument
    add("--atlas", help="ROIs, see above")
    add("--labels-img", type=Path, metavar="IMAGE", help="label image of an atlas file (.json)")
    add("--participants", type=Path, metavar="TSV", help="phenotypes (INPUT/participants.tsv)")
    add("--site", help="site of all scans (from source or participants)")
    add("--t-r", nargs="+", default=[], metavar="TR", help="seconds or SITE=seconds, for scans without TR")
    add("--controlled", action="store_true", help="a data-use agreement binds the cohort")

    add = parser.add_argument_group("selection of scans").add_argument
    add("--match", default="*", metavar="PATTERN", help="only paths that match, such as '*task-rest*'")
    add("--participant-label", nargs="+", metavar="L", help="only scans with these sub-")
    add("--session", nargs="+", metavar="L", help="only scans with these ses-")
    add("--task", nargs="+", metavar="L", help="only scans with these task-")
    # `run` in the namespace is the function of the command.
    add("--run", nargs="+", metavar="L", dest="run_label", help="only scans with these run-")
    add("--bids-filter-file", type=Path, metavar="JSON", help='as of fMRIPrep: {"bold": {"task": "rest"}}')

    add = parser.add_argument_group("quality limits (other scans are refused)").add_argument
    for field in dataclasses.fields(Thresholds):
        default = "no limit" if field.default is None else field.default
        add(
            f"--{field.name.replace('_', '-')}",
            type=int if field.type == "int" else float,
            default=field.default,
            metavar="X",
            help=f"{field.metadata['help']} ({default})",
        )

    add = parser.add_argument_group("options of one source").add_argument
    for name, options in SOURCE_OPTIONS.items():
        choices = tuple(STRATEGIES) if name == "strategy" else None
        add(f"--{name.replace('_', '-')}", choices=choices, **options)

    add = parser.add_argument_group("execution").add_argument
    add("--workers", type=int, default=1, metavar="N", help="processes that read scans (%(default)s)")
    add("--scheduler", metavar="ADDRESS", help="Dask scheduler, such as tcp://node01:8786")
    add("--shard-mb", type=float, default=300, metavar="MB", help="largest BOLD of a shard (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Run `fmri-lm scans`; return 1 if the dataset has no scan."""
    from ..scans.build import build_scan_dataset, find_scans
    from ..scans.denoising import Thresholds
    from ..scans.sources import SOURCES
    from ..scans.sources.bids import Selection, read_participants

    table = args.participants
    if table is None and (args.input / "participants.tsv").exists():
        table = args.input / "participants.tsv"
    participants = None if table is None else read_participants(table)
    source_class = SOURCES[args.source]
    source = source_class(
        root=args.input,
        atlas=find_atlas(args.atlas, args.labels_img),
        site=args.site,
        t_r=_parse_t_r(args.t_r),
        match=args.match,
        selection=Selection.of(
            args.bids_filter_file,
            participant_label=args.participant_label,
            session=args.session,
            task=args.task,
            run=args.run_label,
        ),
        thresholds=Thresholds(**{item.name: getattr(args, item.name) for item in dataclasses.fields(Thresholds)}),
        **_source_options(args, source_class),
    )
    if args.dry_run:
        _print_scans(source, find_scans(source, participants))
        return 0
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


def _print_scans(source: Source, files: list[ScanFile]) -> None:
    """Print the scans that would be read, and the files that are left out."""
    for file in files:
        names = " ".join(source.relative(path) for path in file.inputs) or "(from the cohort's table)"
        t_r = source.t_r_of(file)
        given = "" if t_r is None else f" TR {t_r:g} s"
        print(f"read: {file.scan_id} ({file.subject_id}, site {file.site}{given}): {names}")
    for file_left_out in source.left_out:
        print(f"left out: {file_left_out.name}: {file_left_out.reason}")
    n_subjects = len({file.subject_id for file in files})
    print(f"{len(files)} scans of {n_subjects} participants would be read, {len(source.left_out)} files left out.")


def _source_options(args: argparse.Namespace, source_class: type[Source]) -> dict[str, Any]:
    """Collect the given options of single sources; refuse those that this source does not have."""
    from ..models.scan_errors import ScanError

    given = {name: getattr(args, name) for name in SOURCE_OPTIONS if getattr(args, name) is not None}
    unknown = set(given) - {item.name for item in dataclasses.fields(source_class)}
    if unknown:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(unknown))
        raise ScanError(f"The source {args.source} has no option {options}: leave it out.")
    return given


def _parse_t_r(words: list[str]) -> dict[str, float]:
    """Parse `["2.0"]`, the TR of all sites, or `["a=0.72", "b=2.0"]`, that of each site."""
    from ..models.scan_errors import ScanError

    t_r = {}
    for word in words:
        site, _, seconds = word.rpartition("=")  # the last one: names of sites may have a "="
        try:
            t_r[site] = float(seconds)
        except ValueError as error:
            raise ScanError(f"--t-r {word}: expected seconds or SITE=SECONDS, such as 0.72 or site_a=0.72.") from error
    return t_r
