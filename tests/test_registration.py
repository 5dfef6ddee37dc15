"""`import fmri_lm_hf` is all that a user types, in whatever order other imports come."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fmri_lm_hf

ALL_ARE_KNOWN = """
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForCausalLM, AutoProcessor
from transformers import AutoModelForPreTraining, AutoModelForSequenceClassification
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.pipelines import PIPELINE_REGISTRY
from fmri_lm_hf import FmriLMConfig, FmriTokenizerConfig
assert type(AutoConfig.for_model("fmri_lm")) is FmriLMConfig
assert type(AutoConfig.for_model("fmri_tokenizer")) is FmriTokenizerConfig
for auto, config in (
    (AutoModel, FmriTokenizerConfig), (AutoModelForPreTraining, FmriTokenizerConfig), (AutoModel, FmriLMConfig),
    (AutoModelForCausalLM, FmriLMConfig), (AutoModelForSequenceClassification, FmriLMConfig),
):
    assert config in auto._model_mapping, (auto, config)
assert FmriTokenizerConfig in FEATURE_EXTRACTOR_MAPPING and FmriLMConfig in FEATURE_EXTRACTOR_MAPPING
assert FmriLMConfig in PROCESSOR_MAPPING
tasks = ("question-answering", "to-text", "zero-shot-classification", "decision", "hypothesis", "feature-extraction")
assert {f"fmri-{task}" for task in tasks} <= set(PIPELINE_REGISTRY.get_supported_tasks())
"""
TWO_THREADS = """
import importlib, threading
names = ["fmri_lm_hf", "transformers.pipelines", "fmri_lm_hf.models.modeling_fmri_lm", "fmri_lm_hf.training.trainer"]
threads = [threading.Thread(target=importlib.import_module, args=(name,)) for name in names]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error::ImportWarning", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "imports",
    [
        "import fmri_lm_hf",
        "import importlib.util, fmri_lm_hf; importlib.util.find_spec('transformers.models.auto.modeling_auto')",
        "import fmri_lm_hf; from transformers import LlamaForCausalLM, Trainer",  # modeling_layers comes first
        "from transformers import LlamaForCausalLM, pipeline, AutoProcessor; import fmri_lm_hf",
        "from fmri_lm_hf import FmriLMForCausalLM",
        "from fmri_lm_hf import FmriLMForSequenceClassification",
        "from fmri_lm_hf.training import trainer",
        "import fmri_lm_hf.models.modeling_fmri_tokenizer",
        "from fmri_lm_hf.registration import register; register(); register()",
        TWO_THREADS,
    ],
)
def test_transformers_knows_the_classes_after_any_order_of_imports(imports):
    run("-c", imports + "\n" + ALL_ARE_KNOWN)


def test_checkpoints_load_whatever_asks_for_the_specs_of_modules(checkpoint):
    run(
        "-c",
        f"""
import importlib.util, fmri_lm_hf
for name in ("auto.modeling_auto", "auto.configuration_auto", "auto.processing_auto", "auto.feature_extraction_auto"):
    importlib.util.find_spec("transformers.models." + name)
importlib.util.find_spec("transformers.pipelines")
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForCausalLM, AutoProcessor, pipeline
from transformers import AutoModelForSequenceClassification
folder = {str(checkpoint)!r}
for auto in (AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoProcessor):
    assert type(auto.from_pretrained(folder)).__module__.startswith("fmri_lm_hf."), auto
assert type(AutoFeatureExtractor.from_pretrained(folder)) is fmri_lm_hf.FmriFeatureExtractor
for task in ("to-text", "zero-shot-classification", "decision", "hypothesis", "feature-extraction"):
    assert type(pipeline("fmri-" + task, model=folder)).__name__.startswith("Fmri"), task
""",
    )


def test_the_commands_help_waits_for_neither_torch_nor_transformers(tmp_path):
    heavy = "; import sys; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    script = tmp_path / "fmri-lm"
    script.write_text(f"import fmri_lm_hf.cli{heavy}")
    run(str(script), "--help")
    assert "--version" in run("-m", "fmri_lm_hf.cli", "--help")


def test_what_a_command_spawns_registers_at_import(tmp_path):
    """Spawned processes inherit `sys.argv` of the command, and never come to its `main`."""
    check = tmp_path / "spawned_check.py"
    check.write_text(f"def run():\n    import fmri_lm_hf\n    exec({ALL_ARE_KNOWN!r})\n")
    script = tmp_path / "fmri-lm"
    script.write_text(
        "import multiprocessing, spawned_check\nif __name__ == '__main__':\n"
        "    worker = multiprocessing.get_context('spawn').Process(target=spawned_check.run)\n"
        "    worker.start(); worker.join(); assert worker.exitcode == 0\n"
    )
    run(str(script), "train")


def test_a_program_of_another_name_registers_whatever_its_arguments_are(tmp_path):
    script = tmp_path / "fmri-lm.py"
    script.write_text("import fmri_lm_hf\n" + ALL_ARE_KNOWN)
    run(str(script), "fmri-lm", "--help")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'FmriNothing'"):
        fmri_lm_hf.FmriNothing  # noqa: B018
    assert set(fmri_lm_hf.__all__) <= set(dir(fmri_lm_hf))


def test_public_names_are_found_and_seen_by_type_checkers():
    source = Path(fmri_lm_hf.__file__).read_text(encoding="utf-8")
    of_type_checkers = source.partition("if TYPE_CHECKING:")[2].partition("\n_HOME")[0]
    for name in set(fmri_lm_hf.__all__) - {"__version__"}:
        public = getattr(fmri_lm_hf, name)
        assert public.__name__ == name
        assert public.__module__ == f"fmri_lm_hf{fmri_lm_hf._HOME[name]}"  # where it is defined
        assert name in of_type_checkers
