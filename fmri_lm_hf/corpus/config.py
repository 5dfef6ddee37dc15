"""What a corpus is made of: the options of a build, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..descriptors import FAMILIES
from ..descriptors.catalogue import check_families
from .prose import LENGTHS

__all__ = ["CorpusConfig"]


@dataclass(frozen=True)
class CorpusConfig:
    """What a corpus is made of. Two builds with equal configs and equal scans are equal, byte for byte.

    Parameters
    ----------
    families : sequence of {"connectivity", "gradients", "graph", "ica"}
        Descriptors; each family is a config of the dataset, beside `all`.
    lengths : sequence of {"sentence", "paragraph", "full"}
        A row is written for each length.
    wordings : int
        Texts of each scan and length; they state the same facts in other words.
    fractions : sequence of three floats
        Shares of the subjects for train, validation and test.
    group_by : str, optional
        Column whose equal values keep subjects in one split, such as `family_id` or `site`.
    holdout_sites : sequence of str
        Sites whose subjects are all test.
    splits : mapping of str to list of str, optional
        Subject ids of each split, from the manifest of another corpus; replaces the three before. Scans of other
        subjects are left out, and listed.
    describe : sequence of str, optional
        Columns that `subject_description` tells; those of age, sex, handedness, education and diagnosis that the
        scans have when None.
    n_components : int
        Of the group ICA.
    seed : int
        Of the splits, the group ICA and the wordings.
    scan_dataset : str, optional
        Repository of the scans on the Hub, `org/name`: what `scan_id` and `scan_index` point into.
    license : str, optional
        Of the corpus; the card says that it has to be filled in when None.
    controlled : bool
        The scans come from a cohort with a data-use agreement; the card warns, and publishing asks for
        confirmation.
    simulated : bool
        The scans were simulated; the card says so.
    """

    families: Sequence[str] = FAMILIES
    lengths: Sequence[str] = LENGTHS
    wordings: int = 1
    fractions: Sequence[float] = (0.8, 0.1, 0.1)
    group_by: str | None = None
    holdout_sites: Sequence[str] = ()
    splits: Mapping[str, Sequence[str]] | None = None
    describe: Sequence[str] | None = None
    n_components: int = 20
    seed: int = 0
    scan_dataset: str | None = None
    license: str | None = None
    controlled: bool = False
    simulated: bool = False

    def __post_init__(self) -> None:
        check_families(self.families)
        unknown = [length for length in self.lengths if length not in LENGTHS]
        if unknown or not self.lengths:
            raise ValueError(f"lengths={list(self.lengths)} found, expected some of {', '.join(LENGTHS)}.")
        for field in ("wordings", "n_components"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} found, expected at least 1.")
