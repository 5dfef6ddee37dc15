"""Atlases: the regions of interest (ROIs) of scans, features and models, by name and in order.

This file and those that it imports can travel with a checkpoint as its own code: at import they need numpy and
transformers alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from .atlas_names import UNASSIGNED, YEO_NETWORKS, is_network, network_of, read_label_table, yeo_scheme
from .image_files import image_data, is_cifti, load_image, volume_data
from .scan_errors import ScanError, require
from .scan_images import extract

logger = logging.get_logger(__name__)

DEFAULT_RADIUS_MM = 5.0


@dataclass(frozen=True)
class Atlas:
    """The ROIs of a study: their names in order, their networks, and how to extract them from an image.

    Parameters
    ----------
    name : str
        For example `"schaefer_400_7networks"`.
    roi_names : sequence of str
        Unique, in the order of the columns of every table made with this atlas.
    networks : sequence of str
        The network of each ROI.
    coordinates : sequence of (x, y, z), optional
        Centres in mm (MNI). Images are read as spheres around them, unless the atlas has `labels`.
    radius_mm : float or sequence of float, optional
        Radius of the spheres, for all ROIs or each; 5 mm unless given.
    labels : sequence of int, optional
        Value of each ROI in a label image.
    labels_sha256 : str, optional
        Checksum of that image. The image itself is not saved: an atlas read from JSON asks for it again.
    labels_img : nibabel image, optional
        The label image (NIfTI, CIFTI dlabel or GIFTI); neither saved nor compared.

    Examples
    --------
    >>> atlas = Atlas.load("dosenbach_2010")
    >>> atlas.n_rois, atlas.network_names[0]
    (160, 'cerebellum')
    >>> bold = atlas.extract("sub-01_bold.nii.gz")  # (n_timepoints, 160)
    """

    name: str
    roi_names: tuple[str, ...]
    networks: tuple[str, ...]
    coordinates: tuple[tuple[float, float, float], ...] | None = None
    radius_mm: tuple[float, ...] | float | None = None
    labels: tuple[int, ...] | None = None
    labels_sha256: str | None = None
    labels_img: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        values: dict[str, Any] = {
            "roi_names": tuple(map(str, self.roi_names)),
            "networks": tuple(map(str, self.networks)),
        }
        if self.coordinates is not None:
            values["coordinates"] = tuple(tuple(map(float, point)) for point in self.coordinates)
            radius = DEFAULT_RADIUS_MM if self.radius_mm is None else self.radius_mm
            radii = radius if isinstance(radius, Sequence) else [radius] * len(self.coordinates)
            values["radius_mm"] = tuple(map(float, radii))
        if self.labels is not None:
            values["labels"] = tuple(map(int, self.labels))
        for name, value in values.items():
            object.__setattr__(self, name, value)  # the only way to set a field of a frozen dataclass

        if not self.roi_names:
            raise ScanError(f"Atlas {self.name!r} has no ROIs: give `roi_names`.")
        for name in ("networks", "coordinates", "radius_mm", "labels"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != self.n_rois:
                raise ScanError(
                    f"Atlas {self.name!r} has {self.n_rois} ROI names but {len(value)} {name}: give one for each ROI."
                )
        for name in ("roi_names", "labels"):
            repeated = [str(item) for item, count in Counter(getattr(self, name) or ()).items() if count > 1]
            if repeated:
                raise ScanError(
                    f"Atlas {self.name!r} repeats {len(repeated)} of its {name} ({_some(repeated)}): make them unique."
                )
        if any(len(point) != 3 for point in self.coordinates or ()):
            raise ScanError(f"Atlas {self.name!r} has coordinates that are not (x, y, z) in mm.")
        _check_yeo_networks(self)

    @property
    def n_rois(self) -> int:
        """Number of ROIs."""
        return len(self.roi_names)

    @property
    def network_names(self) -> tuple[str, ...]:
        """The networks, once each, in order of first appearance."""
        return tuple(dict.fromkeys(self.networks))

    @property
    def named_networks(self) -> tuple[str, ...]:
        """The networks that have a name: `network_names` without "unassigned" and the like."""
        return tuple(filter(is_network, self.network_names))

    @classmethod
    def numbered(cls, n_rois: int, name: str = "numbered") -> Atlas:
        """Make an atlas for tables without names: `roi_001`, `roi_002`, ..., all of network `unassigned`."""
        return cls(name, tuple(f"roi_{i + 1:03d}" for i in range(n_rois)), (UNASSIGNED,) * n_rois)

    @classmethod
    def from_names(cls, roi_names: Iterable[str], name: str) -> Atlas:
        """Make an atlas for tables with ROI names, which may state networks (`atlas_names.network_of`)."""
        names = tuple(map(str, roi_names))
        return cls(name, names, tuple(map(network_of, names)))

    @classmethod
    def load(cls, name: str) -> Atlas:
        """Load an atlas that nilearn knows.

        Parameters
        ----------
        name : str
            `"seitzman_2018"` (300 ROIs) or `"dosenbach_2010"` (160), which need no download; or
            `"schaefer_400_7networks"` (100 to 1000 ROIs, 7 or 17 networks), which nilearn downloads once.
        """
        if name in ("seitzman_2018", "dosenbach_2010"):
            return _coordinate_atlas(name)
        match = re.fullmatch(r"schaefer(?:_2018)?_(\d+)(?:_(7|17)networks)?", name)
        if match is None:
            raise ScanError(
                f"Unknown atlas {name!r}: expected 'seitzman_2018', 'dosenbach_2010' or "
                "'schaefer_<n_rois>_<7|17>networks'. For another one use Atlas.from_json or Atlas.from_labels_img."
            )
        return _schaefer_atlas(int(match[1]), int(match[2] or 7))

    @classmethod
    def from_labels_img(cls, labels_img: Any, table: Any = None, name: str = "labels") -> Atlas:
        """Make an atlas from a label image and the table that names its values.

        Parameters
        ----------
        labels_img : path or nibabel image
            3D NIfTI, CIFTI `.dlabel.nii` or one hemisphere of a GIFTI `.label.gii`, with the other one in the same
            folder. CIFTI and GIFTI carry their own table.
        table : path, optional
            CSV or TSV with columns `index`, `name` and optionally `network` (or as BIDS and XCP-D call them: `label`,
            `network_label`); a colour lookup table with lines `index name R G B A`; or a Workbench label list (a line
            with the name, then one with `index R G B A`). ROIs without a network get the one in their name
            (`atlas_names.network_of`).
        name : str
            Name of the atlas.
        """
        image = load_image(labels_img)
        if is_cifti(image):
            maps = image.header.get_axis(0)
            if not hasattr(maps, "label") or len(maps) != 1:
                raise ScanError(
                    f"The label image of atlas {name!r} holds {len(maps)} rows of a {type(maps).__name__}: expected "
                    "one map of labels (.dlabel.nii, .label.gii)."
                )
        if table is not None:
            rows = read_label_table(Path(table))
        elif is_cifti(image):
            labels = sorted(maps.label[0].items())
            rows = [(key, text, network_of(text)) for key, (text, _) in labels]
        else:
            raise ScanError(
                "A NIfTI label image needs `table=`, a file with the columns index, name and network (`fmri-lm atlas "
                "IMAGE --table TABLE --out FILE.json` makes an atlas of both)."
            )
        rows = [row for row in rows if row[0] != 0]  # 0 is the background
        values = image_data(image) if is_cifti(image) else volume_data(image)
        present = set(np.unique(values).astype(int).tolist()) - {0}
        named = {index for index, _, _ in rows}
        if not present & named:
            raise ScanError(
                f"No value of the label image is named in the table of {name!r}: found {_some(sorted(present))} in the "
                f"image and {_some(sorted(named))} in the table. Check that they belong together."
            )
        # The other way round, a name without a voxel, is kept: it becomes a masked slot in every scan, and the columns
        # stay where tables and models of this atlas have them.
        if present - named:
            logger.warning(f"Atlas {name!r} leaves out label values without a name: {_some(sorted(present - named))}.")
        indices, names, networks = zip(*rows, strict=True)
        return cls(
            name,
            tuple(_unique(names)),
            networks,
            labels=indices,
            labels_sha256=_sha256(image),
            labels_img=image,
        )

    def with_labels_img(self, labels_img: Any) -> Atlas:
        """Return the atlas with its label image, whose checksum is verified."""
        if self.labels is None:
            raise ScanError(f"Atlas {self.name!r} has no labels, so it takes no label image.")
        image = load_image(labels_img)
        found = _sha256(image)
        if self.labels_sha256 not in (None, found):
            raise ScanError(
                f"The label image is not the one that atlas {self.name!r} was made with: its checksum is "
                f"{found[:12]}..., expected {str(self.labels_sha256)[:12]}.... Give the original image, or make a "
                "new atlas with Atlas.from_labels_img."
            )
        return replace(self, labels_img=image, labels_sha256=found)

    def with_networks(self, table: str | os.PathLike) -> Atlas:
        """Return an atlas of the same ROIs with the networks of a table.

        Parameters
        ----------
        table : path
            A label table as for `from_labels_img`, with a row for each ROI, found by its name.
        """
        path = Path(table)
        network = {name: given for _, name, given in read_label_table(path)}
        missing = [name for name in self.roi_names if name not in network]
        if missing:
            raise ScanError(
                f"The label table {path.name} has no row for {len(missing)} ROIs of atlas {self.name!r} "
                f"({_some(missing)}): expected one for each, with columns name and network."
            )
        return replace(self, networks=tuple(network[name] for name in self.roi_names))

    def to_dict(self) -> dict[str, Any]:
        """Return the atlas as a record for JSON, without the image and local paths."""
        record: dict[str, Any] = {
            "name": self.name,
            "roi_names": list(self.roi_names),
            "networks": list(self.networks),
        }
        if self.coordinates is not None and isinstance(self.radius_mm, tuple):
            same = len(set(self.radius_mm)) == 1
            record["coordinates"] = [list(point) for point in self.coordinates]
            record["radius_mm"] = self.radius_mm[0] if same else list(self.radius_mm)
        if self.labels is not None:
            record["labels"] = list(self.labels)
            record["labels_sha256"] = self.labels_sha256
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], labels_img: Any = None) -> Atlas:
        """Make the atlas of a `to_dict` record, with its label image (path or nibabel image) if it has one."""
        missing = {"name", "roi_names", "networks"} - set(record)
        if missing:
            raise ScanError(
                f"An atlas needs the keys name, roi_names and networks: {', '.join(sorted(missing))} not found."
            )
        optional = ("coordinates", "radius_mm", "labels", "labels_sha256")
        atlas = cls(
            record["name"],
            record["roi_names"],
            record["networks"],
            **{key: record[key] for key in optional if record.get(key) is not None},
        )
        return atlas if labels_img is None else atlas.with_labels_img(labels_img)

    def to_json(self, path: str | os.PathLike) -> None:
        """Write the atlas as JSON."""
        # not by `fmri_lm_hf.files`, which does not travel with a checkpoint
        partial = Path(f"{os.fspath(path)}.{os.getpid()}.tmp")
        partial.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)

    @classmethod
    def from_json(cls, path: str | os.PathLike, labels_img: Any = None) -> Atlas:
        """Read an atlas written by `to_json`, or by hand: `name`, `roi_names`, `networks`, optional `coordinates`."""
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ScanError(f"The atlas file {path} does not exist.") from error
        except (OSError, ValueError) as error:
            raise ScanError(f"The atlas file {path} is not readable JSON: {error}.") from error
        if not isinstance(record, dict):
            raise ScanError(f"The atlas file {path} must hold one JSON object with name, roi_names and networks.")
        return cls.from_dict(record, labels_img)

    def roi_slots(self, roi_names: Iterable[str]) -> np.ndarray:
        """Find the columns of a scan with `roi_names` in the order of this atlas, so that `bold[:, slots]` fits it.

        Raises `ScanError` with the names that differ unless both have the same names.
        """
        # By name and never by place: two parcellations can have the same number of ROIs in another order, and a scan in
        # the wrong order looks like any other.
        names = [str(name) for name in roi_names]
        where = {name: column for column, name in enumerate(names)}
        known = set(self.roi_names)
        unknown = [name for name in names if name not in known]
        missing = [name for name in self.roi_names if name not in where]
        if unknown or missing or len(names) != self.n_rois:
            problems = []
            if unknown:
                problems.append(f"{len(unknown)} not in the atlas ({_some(unknown)})")
            if missing:
                problems.append(f"{len(missing)} missing from the scan ({_some(missing)})")
            if len(names) > len(where):
                problems.append(f"{len(names) - len(where)} repeated")
            of_scan, of_atlas = yeo_scheme(names), yeo_scheme(self.roi_names)
            hint = ""
            if of_scan and of_atlas and of_scan != of_atlas:
                hint = f" The scan uses {of_scan}-network names, the atlas {of_atlas}-network names."
            raise ScanError(
                f"The ROIs of the scan do not match atlas {self.name!r} by name: {'; '.join(problems)}.{hint} "
                f"Expected its {self.n_rois} ROIs; extract the scan with this atlas."
            )
        return np.asarray([where[name] for name in self.roi_names])

    def extract(self, image: Any, mask_img: Any = None) -> np.ndarray:
        """Compute the mean signal of every ROI of a 4D NIfTI image, a dense CIFTI series or a GIFTI series.

        Parameters
        ----------
        image : path or nibabel image
        mask_img : path or nibabel image, optional
            Only voxels of this mask are read (NIfTI).

        Returns
        -------
        np.ndarray of shape (n_timepoints, n_rois), float32
            An ROI without a voxel in the image is a column of NaN.
        """
        return extract(self, image, mask_img).signals.astype(np.float32)


def _coordinate_atlas(name: str) -> Atlas:
    datasets = require("nilearn.datasets")
    bunch = getattr(datasets, f"fetch_coords_{name}")()
    # seitzman_2018 has no ROI names: they are made of the network and the structure of each ROI
    names = bunch.get("labels") or [" ".join(pair) for pair in zip(bunch["networks"], bunch["regions"])]
    radius = bunch.get("radius")
    return Atlas(
        name,
        tuple(_unique(map(str, names))),
        bunch["networks"],
        coordinates=np.asarray(bunch["rois"][["x", "y", "z"]], dtype=float).tolist(),
        radius_mm=None if radius is None else np.asarray(radius, dtype=float).tolist(),
    )


def _schaefer_atlas(n_rois: int, n_networks: int) -> Atlas:
    datasets = require("nilearn.datasets")
    name = f"schaefer_{n_rois}_{n_networks}networks"
    try:
        bunch = datasets.fetch_atlas_schaefer_2018(n_rois, n_networks, resolution_mm=2, verbose=0)
    except OSError as error:
        raise ScanError(
            f"Atlas {name!r} could not be downloaded by nilearn: go online once, or give a copy of your own to "
            "Atlas.from_labels_img(labels_img, table)."
        ) from error
    names = [label.decode() if isinstance(label, bytes) else str(label) for label in bunch["labels"]]
    atlas = Atlas.from_names((label for label in names if label != "Background"), name)
    image = load_image(bunch["maps"])
    labels = tuple(range(1, atlas.n_rois + 1))
    return replace(atlas, labels=labels, labels_sha256=_sha256(image), labels_img=image)


def _check_yeo_networks(atlas: Atlas) -> None:
    # The two Yeo parcellations of Schaefer have the same ROIs in another order. With the table of one and the image of
    # the other every ROI gets a name, and nearly all of them are wrong.
    scheme = yeo_scheme(atlas.roi_names)
    if not scheme:
        return
    other = "17" if scheme == "7" else "7"
    title = re.search(r"(?<!\d)(7|17)[ _]?networks", atlas.name, flags=re.IGNORECASE)
    wrong = sorted((set(atlas.networks) & YEO_NETWORKS[other]) - YEO_NETWORKS.get(scheme, set()))
    if scheme not in YEO_NETWORKS:
        raise ScanError(f"Atlas {atlas.name!r} mixes ROI names of the 7- and the 17-network parcellation: use one.")
    if wrong or (title and title[1] != scheme):
        found = f"network {_some(wrong)}" if wrong else f"the atlas name {atlas.name!r}"
        raise ScanError(
            f"Atlas {atlas.name!r} has {scheme}-network ROI names, but {found} belongs to the {other}-network "
            "parcellation, whose ROIs come in another order: use the table of the image's own parcellation."
        )


def _unique(names: Iterable[str]) -> list[str]:
    """Names made unique by numbering the repeated ones: `a, b, a` becomes `a 1, b, a 2`."""
    names = list(names)
    total, seen = Counter(names), Counter[str]()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(f"{name} {seen[name]}" if total[name] > 1 else name)
    return unique


def _sha256(labels_img: Any) -> str:
    """Checksum of the labels and of where they lie."""
    # Labels as int32 and the affine to the micrometre: the same image saved as uint8, int16 or float, compressed or
    # not, has one checksum.
    digest = hashlib.sha256(np.ascontiguousarray(image_data(labels_img), dtype="<i4").tobytes())
    if not is_cifti(labels_img):
        digest.update(np.round(np.asarray(labels_img.affine, dtype="<f8"), 3).astype("<f4").tobytes())
    return digest.hexdigest()


def _some(items: Sequence[Any], limit: int = 5) -> str:
    """Name the first few items, and how many more there are."""
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"
