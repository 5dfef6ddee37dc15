"""Names of networks for random atlases: published ones, anatomical terms joined at random, and made-up words."""

from __future__ import annotations

import numpy as np

__all__ = ["PUBLISHED_NAMES", "draw_network_names"]

# As atlases spell them (Yeo 2011 in Schaefer's short form and in words, Dosenbach 2010, Power 2011, Gordon 2016, Tian
# 2020, cerebral lobes). The list is a start, not the limit of what a reader can read.
PUBLISHED_NAMES = (
    "default",
    "Default",
    "default mode",
    "visual",
    "Vis",
    "SomMot",
    "somatomotor",
    "sensorimotor",
    "DorsAttn",
    "dorsal attention",
    "ventral attention",
    "SalVentAttn",
    "salience",
    "Limbic",
    "limbic",
    "Cont",
    "control",
    "fronto-parietal",
    "frontoparietal",
    "cingulo-opercular",
    "cerebellum",
    "occipital",
    "auditory",
    "subcortical",
    "frontal",
    "temporal",
    "parietal",
    "thalamus",
    "striatum",
    "hippocampus",
    "amygdala",
    "brainstem",
    "language",
    "memory",
    "VisCent",
    "VisPeri",
    "SomMotA",
    "SomMotB",
    "DorsAttnA",
    "DorsAttnB",
    "SalVentAttnA",
    "SalVentAttnB",
    "LimbicA",
    "LimbicB",
    "ContA",
    "ContB",
    "ContC",
    "DefaultA",
    "DefaultB",
    "DefaultC",
    "TempPar",
)
_TERMS = (
    "anterior posterior dorsal ventral lateral medial left right superior inferior primary secondary "
    "central frontal temporal parietal occipital cingulate insular motor sensory visual auditory "
    "attention control memory language executive emotion reward cortex nucleus gyrus pole area lobe hub "
    "core system cluster"
)
_MARKS = "A B C 1 2 3 4 5 6 7 8"
_ONSETS = ["b", "c", "d", "f", "g", "l", "m", "n", "p", "r", "s", "t", "v", "br", "cr", "st", "tr"]
_VOWELS = ["a", "e", "i", "o", "u", "ea", "ai"]


def draw_network_names(n: int, rng: np.random.Generator) -> list[str]:
    """`n` different names: on average half published ones, the rest joined terms and made-up words.

    Two names never differ by case alone.
    """
    names: dict[str, str] = {}
    share_published = rng.choice([0.0, 0.5, 1.0])
    while len(names) < n:
        kind = rng.random()
        if kind < share_published:
            name = str(rng.choice(PUBLISHED_NAMES))
        elif kind < share_published + 0.6 * (1 - share_published):
            name = " ".join(rng.choice(_TERMS.split(), int(rng.integers(1, 3)), replace=False))
            if rng.random() < 0.3:
                name += f" {rng.choice(_MARKS.split())}"
        else:
            name = "".join(
                f"{rng.choice(_ONSETS)}{rng.choice(_VOWELS)}" for _ in range(int(rng.integers(2, 4)))
            )
        names.setdefault(name.lower(), name)
    return list(names.values())
