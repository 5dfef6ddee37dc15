"""Make an atlas from a label image and the table that names its labels, and check that they belong together.

The atlas file (.json) holds the names of the ROIs, their networks and the checksum of the image, but not the image.
`fmri-lm scans SOURCE INPUT --atlas FILE --labels-img IMAGE` extracts these ROIs from scans.

IMAGE and the names of its ROIs:
  .nii, .nii.gz     in MNI space, with --table
  .dlabel.nii       contains the names
  .label.gii        of either hemisphere, with the other beside it; contains the names
TABLE is a CSV or TSV with the columns index (the value in the image), name and, if known, network; a colour lookup
table (`index name R G B A`); or a Workbench label list. Texts only mention ROIs with a network:

  index  name        network
  1      LH_Vis_1    visual
  2      LH_Vis_2    visual
  3      LH_Def_1    default

The command reports ROIs with fewer than five voxels, ROIs without a network, exchanged sides, and ROIs outside MNI
space; with any of these it returns 1. Without --out it only checks.

examples:
  fmri-lm atlas aal.nii.gz --table aal.tsv
  fmri-lm atlas aal.nii.gz --table aal.tsv --out aal.json
  fmri-lm atlas 4S456Parcels.dlabel.nii --out 4s456.json
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fmri-lm atlas`."""
    parser.add_argument("image", metavar="IMAGE", type=Path, help="label image, see above")
    parser.add_argument("--table", type=Path, help="names of the labels")
    parser.add_argument("--name", help="name of the atlas (default: from IMAGE)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="atlas file to write (.json)")


def run(args: argparse.Namespace) -> int:
    """Run `fmri-lm atlas`; return 1 if the check finds problems."""
    from ..models.atlas import Atlas
    from ..models.image_files import both_hemispheres
    from ..models.scan_errors import ScanError
    from ..scans.atlas_check import check_atlas

    if args.out is not None and args.out.suffix != ".json":
        raise ScanError(f"--out {args.out}: expected a name that ends in .json.")
    is_surface = args.image.name.endswith(".gii")
    file_name = both_hemispheres(args.image)[0] if is_surface else args.image.name
    atlas = Atlas.from_labels_img(args.image, args.table, args.name or file_name.partition(".")[0])
    check = check_atlas(atlas)
    networks = ", ".join(atlas.network_names[:10]) + (", ..." if len(atlas.network_names) > 10 else "")
    print(
        f"{atlas.name}: {atlas.n_rois} ROIs of {len(atlas.network_names)} networks ({networks}), "
        f"{check.n_voxels.min()} to {check.n_voxels.max()} voxels each."
    )
    for problem in check.problems:
        print(f"problem: {problem}")
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        atlas.to_json(args.out)
        print(f"{args.out}: written; read scans with `--atlas {args.out} --labels-img {args.image}`.")
    return 1 if check.problems else 0
