"""Networks and sides from the names of ROIs, and tables that name them."""

from __future__ import annotations

import pytest

from fmri_lm_hf.models.atlas import Atlas
from fmri_lm_hf.models.atlas_names import mirrored_name, network_of, read_label_table
from fmri_lm_hf.models.scan_errors import ScanError


@pytest.mark.parametrize(
    "name, network",
    [
        ("7Networks_LH_Vis_1", "Vis"),
        ("17Networks_RH_SalVentAttnA_ParOper_1", "SalVentAttnA"),
        ("17Networks_LH_Limbic_TempPole_1", "Limbic"),  # as TemplateFlow has it
        ("LH_Vis_1", "Vis"),  # XCP-D's 4S
        ("RH_Default_PFCdPFCm_3", "Default"),
        ("LH_Limbic_TempPole_1", "Limbic"),
        ("LH_TempPar_1", "TempPar"),
        ("LH-Pu", "Subcortex"),
        ("LH-SNc_PBP_VTA", "Subcortex"),
        ("RH_Hippocampus", "Subcortex"),
        ("Cerebellar_Region10", "Cerebellum"),
        ("HIP-head-m-rh", "Subcortex"),  # Tian
        ("HIP-body-l", "Subcortex"),
        ("aGP-lh", "Subcortex"),
        ("L_Default_1", "Default"),  # Gordon
        ("R_SMhand_38", "SMhand"),
        ("R_None_22", "unassigned"),
        ("Precentral_L", "Frontal"),  # AAL
        ("Frontal_Sup_2_R", "Frontal"),
        ("ParaHippocampal_L", "MedialTemporal"),
        ("Cingulum_Post_R", "Cingulate"),
        ("Thalamus_L", "Subcortex"),
        ("Cerebelum_Crus1_L", "Cerebellum"),
        ("Vermis_1_2", "Cerebellum"),
        ("L_V1_ROI", "unassigned"),  # HCP-MMP names no networks
        ("roi_001", "unassigned"),
        ("Visual cortex", "unassigned"),
    ],
)
def test_networks_of_names(name, network):
    assert network_of(name) == network
    assert Atlas.from_names([name], "one").networks == (network,)


@pytest.mark.parametrize(
    "name, other",
    [
        ("7Networks_LH_Vis_1", "7Networks_RH_Vis_1"),
        ("RH_Default_PFC_3", "LH_Default_PFC_3"),
        ("L_SMhand_4", "R_SMhand_4"),
        ("HIP-head-lh", "HIP-head-rh"),
        ("Frontal_Sup_2_R", "Frontal_Sup_2_L"),
        ("Auditory cortexL 1", "Auditory cortexR 1"),
        ("Cerebellar_Region3", None),
        ("roi_001", None),
    ],
)
def test_the_same_region_on_the_other_side(name, other):
    assert mirrored_name(name) == other
    assert other is None or mirrored_name(other) == name


def test_named_networks_leave_out_what_names_none():
    atlas = Atlas("a", tuple("abcdef"), ("Vis", "unassigned", "None", "n/a", "", "Default"))
    assert atlas.named_networks == ("Vis", "Default")
    assert Atlas.numbered(4).named_networks == ()


@pytest.mark.parametrize(
    "text",
    [
        "index\tlabel\tnetwork_label\tlabel_7network\n1\tLH_Vis_1\tVis\t7Networks_LH_Vis_1\n9\tLH-Pu\tn/a\tn/a\n",
        'index,name,network\n1,"LH_Vis_1",Vis\n9,LH-Pu,\n',
        "label,name\n1,LH_Vis_1\n9,LH-Pu\n",
        "index\tlabel\n1.0\tLH_Vis_1\n9.0\tLH-Pu\n",
    ],
)
def test_tables_as_bids_xcpd_and_others_write_them(tmp_path, text):
    path = tmp_path / ("table.tsv" if "\t" in text else "table.csv")
    path.write_text(text)
    assert read_label_table(path) == [(1, "LH_Vis_1", "Vis"), (9, "LH-Pu", "Subcortex")]


@pytest.mark.parametrize("value", ["inf", "1e999", "nan", "1.5", ""])
def test_label_values_are_whole_numbers(tmp_path, value):
    path = tmp_path / "table.tsv"
    path.write_text(f"index\tname\n1\ta\n{value}\tb\n")
    with pytest.raises(ScanError, match=r"The label table table.tsv is not understood: expected columns index"):
        read_label_table(path)


def test_commas_within_quotes_are_part_of_a_name(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text('index,name,network\n1,"area, upper",X\n')
    assert read_label_table(path) == [(1, "area, upper", "X")]


def test_an_atlas_takes_networks_from_a_table(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("name,network\nroi_002,B\nroi_001,A\nroi_003,A\n")
    assert Atlas.numbered(3).with_networks(path).networks == ("A", "B", "A")
    with pytest.raises(ScanError, match=r"has no row for 1 ROIs of atlas 'numbered' \(roi_004\)"):
        Atlas.numbered(4).with_networks(path)
