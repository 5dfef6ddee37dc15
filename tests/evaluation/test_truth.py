"""Truth: the names of the release before still work."""

from __future__ import annotations

import pytest

from fmri_lm_hf.evaluation import truth


@pytest.mark.parametrize(
    ("old", "new"), [("level_probabilities", "bin_probabilities"), ("pair_level_truth", "bin_truth")]
)
def test_old_names_are_the_new_functions_and_say_so(old, new):
    with pytest.warns(FutureWarning, match=f"`{old}` is now `{new}`"):
        assert getattr(truth, old) is getattr(truth, new)
