"""The 450 ROI slots of the published model, by name.

Its time series come from the combined label image of the Melbourne Subcortex Atlas,
`Schaefer2018_400Parcels_7Networks_order_Tian_Subcortex_S3_MNI152NLin6Asym_2mm.nii.gz`, in the order of the labels:
1-50 are the subcortical regions (Tian scale III, right hemisphere first), 51-450 the cortical parcels (Schaefer
400, 7-network order, left hemisphere first).
"""

from __future__ import annotations

from ..models.atlas import Atlas

# One hemisphere of Tian scale III, in label order.
# fmt: off
_SUBCORTEX = (
    "HIP-head-m", "HIP-head-l", "HIP-body", "HIP-tail", "THA-VPm", "THA-VPl", "THA-VAi", "THA-VAs", "THA-DAm",
    "THA-DAl", "PUT-VA", "PUT-DA", "PUT-VP", "PUT-DP", "CAU-VA", "CAU-DA", "CAU-body", "CAU-tail", "lAMY", "mAMY",
    "THA-DP", "NAc-shell", "NAc-core", "pGP", "aGP",
)
# fmt: on
# The parcels of Schaefer 400: number of parcels of each region, in label order.
_CORTEX = {
    "LH": "Vis:31 SomMot:37 DorsAttn_Post:17 DorsAttn_FEF:4 DorsAttn_PrCv:2 SalVentAttn_ParOper:4 "
    "SalVentAttn_TempOcc:1 SalVentAttn_FrOperIns:9 SalVentAttn_PFCl:1 SalVentAttn_Med:7 Limbic_OFC:5 "
    "Limbic_TempPole:8 Cont_Par:6 Cont_Temp:1 Cont_OFC:1 Cont_PFCl:8 Cont_PFCv:1 Cont_pCun:2 Cont_Cing:2 "
    "Cont_PFCmp:1 Default_Temp:10 Default_Par:7 Default_PFC:24 Default_pCunPCC:11",
    "RH": "Vis:30 SomMot:40 DorsAttn_Post:19 DorsAttn_FEF:3 DorsAttn_PrCv:1 SalVentAttn_TempOccPar:7 "
    "SalVentAttn_PrC:1 SalVentAttn_FrOperIns:8 SalVentAttn_PFCl:1 SalVentAttn_Med:8 Limbic_OFC:6 "
    "Limbic_TempPole:7 Cont_Par:6 Cont_Temp:2 Cont_PFCv:1 Cont_PFCl:15 Cont_pCun:2 Cont_Cing:2 Cont_PFCmp:2 "
    "Default_Par:5 Default_Temp:8 Default_PFCv:4 Default_PFCdPFCm:13 Default_pCunPCC:9",
}


def published_atlas() -> Atlas:
    """The atlas of the published model: 450 named slots, to which the user's copy of the label image fits.

    The image itself is not part of this package: `published_atlas().with_labels_img(path)` adds it.
    """
    names = [f"{region}-{side}" for side in ("rh", "lh") for region in _SUBCORTEX]
    networks = ["Subcortex"] * len(names)
    for hemisphere, regions in _CORTEX.items():
        for entry in regions.split():
            region, _, n_parcels = entry.partition(":")
            names += [f"7Networks_{hemisphere}_{region}_{i + 1}" for i in range(int(n_parcels))]
            networks += [region.split("_")[0]] * int(n_parcels)
    return Atlas(
        name="schaefer_400_7networks_tian_s3",
        roi_names=tuple(names),
        networks=tuple(networks),
        labels=tuple(range(1, len(names) + 1)),
    )


__all__ = ["published_atlas"]
