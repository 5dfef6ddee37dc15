"""What moved a model's answers to the tasks of a study, found in two ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .effects import Effects, randomisation_test
from .features import Unavailable
from .gradients import integrated_gradients
from .occlusion import occlude
from .study import Study

__all__ = ["EXPLANATIONS", "explanations"]

EXPLANATIONS: dict[str, Callable[..., Effects]] = {
    "occlusion": occlude,
    "integrated_gradients": integrated_gradients,
}
N_RANDOMISED = 10  # scans of the randomisation test, which looks at each twice more


def explanations(study: Study, n_scans: int) -> dict[str, dict[str, dict[str, Any]]]:
    """What moved the answers to each task of a study, and whether it depends on what the model has learnt.

    Parameters
    ----------
    study : Study
    n_scans : int
        How many of the scans to be judged are looked into; series of some further ones serve as other people's.

    Returns
    -------
    dict
        ``occlusion`` and ``integrated_gradients`` -> task -> what `Effects.summary` says, and ``randomisation_test``,
        as the function of that name returns it, on up to ten scans; or ``left_out`` with the reason.
    """
    atlas = study.processor.feature_extractor.atlas
    n_people = 1 if atlas is None else len(atlas.network_names) + 1
    rows: list[int] = []
    for row in study.read.rows:
        if len(rows) >= n_scans and len({study.subjects[each] for each in rows}) >= 2 * n_people:
            break  # enough people for a choice
        rows.append(row)
    inputs = dict(study.processor(fmri=[study.scans[row] for row in rows]))
    subjects = [study.subjects[row] for row in rows]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for way, explain in EXPLANATIONS.items():
        of_tasks: dict[str, dict[str, Any]] = {}
        for name, task in study.tasks.items():
            asked = (study.model, study.processor, inputs, subjects, task.ask[0], task.classes)
            try:
                moved = explain(*asked, n_scans, seed=study.seed)
                n_tested = min(n_scans, N_RANDOMISED)
                test = randomisation_test(explain, *asked, n_tested, seed=study.seed, found=moved)
                of_tasks[name] = moved.summary() | {"randomisation_test": test}
            except Unavailable as reason:
                of_tasks[name] = {"left_out": str(reason)}
        found[way] = of_tasks
    return found
