"""Names of ROIs: the network, hemisphere and parcellation that they state, and the tables of label images."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from .scan_errors import ScanError

UNASSIGNED = "unassigned"  # the network of ROIs that have none
_NO_NETWORK = {UNASSIGNED, "none", "unknown", "n/a", "na", "nan", ""}

# The networks of the two Yeo parcellations, as Schaefer's ROI names spell them.
YEO_NETWORKS = {
    "7": {"Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default"},
    "17": {
        *("VisCent", "VisPeri", "SomMotA", "SomMotB", "DorsAttnA", "DorsAttnB", "SalVentAttnA", "SalVentAttnB"),
        *("LimbicA", "LimbicB", "ContA", "ContB", "ContC", "DefaultA", "DefaultB", "DefaultC", "TempPar"),
        "Limbic",  # before version 0.14.3 of the parcellation, and so in TemplateFlow
    },
}
_YEO = "|".join(sorted(YEO_NETWORKS["7"] | YEO_NETWORKS["17"], key=len, reverse=True))
_GORDON = (
    "Default|SMhand|SMmouth|Visual|FrontoParietal|Auditory|MedialParietal|ParietoOccip|CinguloParietal|"
    "RetrosplenialTemporal|CinguloOperc|VentralAttn|DorsalAttn|Salience|None"
)
# The automated anatomical labelling atlas (versions 1 to 3) names gyri and nuclei: their lobes stand for networks.
_AAL = {
    "Frontal": "Precentral|Frontal_|Rolandic_Oper|Supp_Motor_Area|Olfactory|Rectus|OFC",
    "Insula": "Insula",
    "Cingulate": "Cingul|ACC_",
    "MedialTemporal": "Hippocampus|ParaHippocampal|Amygdala",
    "Occipital": "Calcarine|Cuneus|Lingual|Occipital_|Fusiform",
    "Parietal": "Postcentral|Parietal_|SupraMarginal|Angular|Precuneus|Paracentral_Lobule",
    "Subcortex": "Caudate|Putamen|Pallidum|Thalamus|Thal_|N_Acc|VTA|SN_p|Red_N|LC",
    "Temporal": "Heschl|Temporal_",
    "Cerebellum": "Cereb",
}
# Patterns of whole names, and their network; None if the group of the pattern holds it. The first match counts.
_PATTERNS: tuple[tuple[str, str | None], ...] = (
    (rf"(?:[lr]h_)?(?:(?:7|17)Networks_)?[LR]H_({_YEO})(?:[_-].+)?", None),  # Schaefer; cortex of XCP-D's 4S
    (rf"[LR]_({_GORDON})(?:_\d+)?", None),
    (r"(?:HIP|[ap]?THA|PUT|CAU|[lm]?AMY|NAc|[ap]?GP)(?:-\w+)*-(?:lh|rh|l|r)", "Subcortex"),  # Tian
    (r"[LR]H-.+|[LR]H_(?:Hippocampus|Amygdala)|Raphe_\w+", "Subcortex"),  # 4S, AAL3
    (r"Cerebellar_Region\d+|Vermis_\w+", "Cerebellum"),  # 4S, AAL
    *((rf"(?:{names})\w*_[LR]", lobe) for lobe, names in _AAL.items()),
)
# The hemisphere in a name: what comes before, the side, what comes after.
_SIDE = r"(.*?\b|.*_)(LH|RH|[LR])(?=[_-])(.*)|(.*[_-])(lh|rh|[LRlr])()|(.*[a-z])([LR])((?: \d+)?)"
_OTHER_SIDE = str.maketrans("LRlr", "RLrl")

INDEX_COLUMNS = ("index", "value", "key", "id")
NAME_COLUMNS = ("name", "label", "roi", "region", "roi_name", "label_name")
NETWORK_COLUMNS = ("network", "network_label", "network_name", "community", "lobe")


def is_network(network: str) -> bool:
    """Whether this is the name of a network: not "unassigned", "none", "n/a" and the like."""
    return network.strip().lower() not in _NO_NETWORK


def network_of(roi_name: str) -> str:
    """Find the network in the name of an ROI, else `unassigned`.

    Names of Schaefer (7 and 17 networks), XCP-D's 4S and Gordon hold their network. Those of Tian, and the nuclei in
    4S, are of the `Subcortex`; names of AAL give their lobe.
    """
    for pattern, network in _PATTERNS:
        if match := re.fullmatch(pattern, roi_name):
            found = network or match[1]
            return found if is_network(found) else UNASSIGNED
    return UNASSIGNED


def mirrored_name(roi_name: str) -> str | None:
    """Return the name of the region on the other side (`LH_Vis_1` for `RH_Vis_1`), or None if no side is named."""
    match = re.fullmatch(_SIDE, roi_name)
    if match is None:
        return None
    before, side, after = (part for part in match.groups() if part is not None)
    return before + side.translate(_OTHER_SIDE) + after


def yeo_scheme(roi_names: Iterable[str]) -> str:
    """Find the Yeo parcellation in the names, `"7"` or `"17"`; `"7 and 17"` if they mix; empty if there is none."""
    found = {match[1] for name in roi_names if (match := re.match(r"(7|17)Networks_", name))}
    return " and ".join(sorted(found, key=int))


def read_label_table(path: Path) -> list[tuple[int, str, str]]:
    """Read rows (index, name, network) of a CSV or TSV table, a colour lookup table or a Workbench label list.

    Columns of CSV and TSV are found by their names, as BIDS, XCP-D and AtlasPack spell them. If the table names no
    network, the name of the ROI may hold it (`network_of`). Rows of a table without an index are numbered from 1.
    """
    try:
        lines = [line.rstrip("\r\n") for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ScanError(f"The label table {path} cannot be read: {error}.") from error
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    delimiter = next((mark for mark in "\t," if lines and mark in lines[0]), None)
    try:
        table = list(csv.reader(lines, delimiter=delimiter)) if delimiter else [line.split() for line in lines]
        table = [[cell.strip() for cell in row] for row in table]
        if table and not any(_is_integer(cell) for cell in table[0]) and len(table[0]) > 1:
            return _rows_by_header(table)
        if table and not _is_integer(table[0][0]):  # Workbench: the name, then its index and colour
            pairs = zip(lines[::2], table[1::2], strict=True)
            return [(int(numbers[0]), text.strip(), network_of(text.strip())) for text, numbers in pairs]
        return [(int(row[0]), row[1], network_of(row[1])) for row in table]
    except (ValueError, IndexError, csv.Error) as error:
        raise ScanError(
            f"The label table {path.name} is not understood: expected columns index, name and network (CSV or TSV), "
            "or lines `index name R G B A`."
        ) from error


def _rows_by_header(table: Sequence[Sequence[str]]) -> list[tuple[int, str, str]]:
    header = [cell.lower() for cell in table[0]]

    def column(names: Sequence[str]) -> int | None:
        return next((header.index(name) for name in names if name in header), None)

    index, name, network = column(INDEX_COLUMNS), column(NAME_COLUMNS), column(NETWORK_COLUMNS)
    if index is None and "label" in header and name != header.index("label"):
        index = header.index("label")  # as FSL and FreeSurfer write it: `label` is the value, `name` the name
    if name is None:
        raise ValueError("There is no column of names.")
    rows = []
    for number, row in enumerate(table[1:], 1):
        given = "" if network is None else row[network]
        value = number if index is None else _label_value(row[index])
        rows.append((value, row[name], given if is_network(given) else network_of(row[name])))
    return rows


def _label_value(cell: str) -> int:
    """A whole number, which some writers give a fraction of zero."""
    value = float(cell)
    if not value.is_integer():  # infinity and NaN are not, either
        raise ValueError(f"{cell} is no label value.")
    return int(value)


def _is_integer(cell: str) -> bool:
    return cell.lstrip("-").isdigit()
