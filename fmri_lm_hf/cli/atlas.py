"""Make an atlas file from a label image and the table that names its values, and check that they belong together.

The table is a CSV or TSV with the columns index, name and (optional) network, a colour lookup table
(`index name R G B A`), or a Workbench label list; a .dlabel.nii file and the .label.gii files of two hemispheres (give
either) carry their own. What is written names the ROIs and holds the checksum of the image, which stays where it is:
`fmri-lm scans --atlas FILE --labels-img IMAGE` reads both.

examples:
  fmri-lm atlas aal.nii.gz --table aal.tsv --out aal.json
  fmri-lm atlas 4S456Parcels.dlabel.nii --out 4s456.json
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `fmri-lm atlas`."""
    parser.add_argument(
        "image", metavar="IMAGE", type=Path, help="label image: .nii, .nii.gz, .dlabel.nii or .label.gii"
    )
    parser.add_argument("--table", type=Path, help="names of its values")
    parser.add_argument("--name", help="name of the atlas (default: from the image's)")
    parser.add_argument("--out", type=Path, help="atlas file to write (.json); only checked without it")


def run(args: argparse.Namespace) -> int:
    """Run `fmri-lm atlas`; 1 if something does not fit."""
    from ..models.atlas import Atlas
    from ..models.image_files import both_hemispheres
    from ..models.scan_errors import ScanError
    from ..scans.atlas_check import check_atlas

    if args.out is not None and args.out.suffix != ".json":
        raise ScanError(f"--out {args.out}: expected a name that ends in .json.")
    is_surface = args.image.name.endswith(".gii")
    file_name = both_hemispheres(args.image)[0] if is_surface else args.image.name
    name = args.name or file_name.partition(".")[0]
    atlas = Atlas.from_labels_img(args.image, args.table, name)
    check = check_atlas(atlas)
    sizes = sorted(check.n_voxels)
    print(
        f"{atlas.name}: {atlas.n_rois} ROIs of {len(atlas.network_names)} networks "
        f"({', '.join(atlas.network_names[:10])}{', ...' if len(atlas.network_names) > 10 else ''}), "
        f"{sizes[0]} to {sizes[-1]} voxels each."
    )
    for problem in check.problems:
        print(f"problem: {problem}")
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        atlas.to_json(args.out)
        print(f"{args.out}: written; read scans with `--atlas {args.out} --labels-img {args.image}`.")
    return 1 if check.problems else 0
