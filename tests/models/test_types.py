"""What a type checker sees of the public classes: loading and calling give types, not `Any`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fmri_lm_hf

# Annotations of transformers and torch take minutes to follow; only the class of a batch is needed.
CONFIG = """
[mypy]
ignore_missing_imports = True
[mypy-transformers.*,torch.*,numpy.*,huggingface_hub.*,datasets.*,peft.*]
follow_imports = skip
[mypy-transformers.feature_extraction_utils]
follow_imports = silent
"""
PROGRAM = """
from fmri_lm_hf import (
    FmriDecisionPipeline, FmriFeatureExtractionPipeline, FmriFeatureExtractor, FmriHypothesisPipeline,
    FmriLMForCausalLM, FmriLMForSequenceClassification, FmriLMProcessor, FmriTokenizer, FmriTokenizerForPreTraining,
    FmriQuestionAnsweringPipeline, FmriToTextPipeline, FmriZeroShotClassificationPipeline,
)
def calls(
    describe: FmriToTextPipeline, classify: FmriZeroShotClassificationPipeline, decide: FmriDecisionPipeline,
    embed: FmriFeatureExtractionPipeline, test: FmriHypothesisPipeline, ask: FmriQuestionAnsweringPipeline,
) -> None:
"""
BATCH = "transformers.feature_extraction_utils.BatchFeature"
SCANS = "['a.nii.gz', 'b.nii.gz']"
PIPELINES = "fmri_lm_hf.models.pipelines."
ANSWERS = "dict[str, dict[str, Any]]"
EXPECTED = {
    **{
        f"{name}.from_pretrained('model')": rf"\S+\.{name}"
        for name in (
            *("FmriLMForCausalLM", "FmriLMForSequenceClassification", "FmriTokenizer"),
            *("FmriTokenizerForPreTraining", "FmriLMProcessor", "FmriFeatureExtractor"),
        )
    },
    "FmriLMProcessor.from_pretrained('model')(text='<fmri>', fmri='scan.npy')": BATCH,
    "FmriFeatureExtractor.from_pretrained('model')('scan.npy')": BATCH,
    "describe('scan.npy')[0]['generated_text']": "str",
    f"describe({SCANS})[0][0]['generated_text']": "str",
    "classify('scan.npy', ['female', 'male'])[0]['score']": r"float \| None",  # None if it declines
    f"classify({SCANS}, ['female', 'male'])[0][0]['label']": r"str \| None",
    "ask('scan.npy', 'Which is the hub?')['answer']": "str",
    f"ask({SCANS}, 'Which is the hub?')[0]['declined']": "bool",
    "decide('scan.npy', {})": re.escape(ANSWERS),
    f"decide({SCANS}, {{}})": re.escape(f"list[{ANSWERS}]"),
    "embed('scan.npy')": r"TypedDict\S*ScanFeatures.*",
    "test('scan.npy', 'weaker connectivity within visual')['evidence'][0]['probability']": "float",
    f"test({SCANS}, 'weaker connectivity within visual')[0]['score']": r"float \| None",
}


def test_loading_and_calling_have_types(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "mypy.ini").write_text(CONFIG)
    lines = [f"    reveal_type({expression})" for expression in EXPECTED]
    (tmp_path / "program.py").write_text(PROGRAM + "\n".join(lines) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "program.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(Path(fmri_lm_hf.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    found = re.findall(r'program\.py:\d+: note: Revealed type is "(.*)"', done.stdout)
    assert len(found) == len(EXPECTED), done.stdout + done.stderr
    for revealed, (expression, expected) in zip(found, EXPECTED.items()):
        plain = revealed.replace("builtins.", "")
        assert re.fullmatch(expected, plain), (expression, revealed)
