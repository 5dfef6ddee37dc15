"""Add the modelling code to a checkpoint, so that it loads where only transformers is installed.

`AutoModelForCausalLM.from_pretrained("org/name", trust_remote_code=True)` and `pipeline("fmri-to-text",
model="org/name", trust_remote_code=True)` then work without this package. Where it is installed, its own classes are
used and the files are not read.
"""

from __future__ import annotations

from pathlib import Path

from ..files import write_bytes
from .contents import Publication, read_folder

_MODELS = Path(__file__).resolve().parents[1] / "models"

_AUTO_MAPS = {
    "fmri_lm": {
        "AutoConfig": "configuration_fmri_lm.FmriLMConfig",
        "AutoModel": "modeling_fmri_lm.FmriLMForCausalLM",
        "AutoModelForCausalLM": "modeling_fmri_lm.FmriLMForCausalLM",
        "AutoModelForSequenceClassification": "modeling_fmri_lm_classification.FmriLMForSequenceClassification",
    },
    "fmri_tokenizer": {
        "AutoConfig": "configuration_fmri_tokenizer.FmriTokenizerConfig",
        "AutoModel": "modeling_fmri_tokenizer.FmriTokenizer",
        "AutoModelForPreTraining": "modeling_fmri_tokenizer_pretraining.FmriTokenizerForPreTraining",
    },
}
# As in `config.custom_pipelines`: the implementation, and the Auto class that loads its model.
_EMBED = {"fmri-feature-extraction": ("pipelines.FmriFeatureExtractionPipeline", "AutoModel")}
_PIPELINES = {
    "fmri_lm": {
        "fmri-zero-shot-classification": ("pipelines.FmriZeroShotClassificationPipeline", "AutoModelForCausalLM"),
        "fmri-to-text": ("pipelines.FmriToTextPipeline", "AutoModelForCausalLM"),
        "fmri-decision": ("pipelines.FmriDecisionPipeline", "AutoModelForCausalLM"),
        **_EMBED,
    },
    "fmri_tokenizer": _EMBED,
}
_EXTRACTOR_MAP = {"AutoFeatureExtractor": "feature_extraction_fmri.FmriFeatureExtractor"}
_PROCESSOR_MAP = {"AutoProcessor": "processing_fmri_lm.FmriLMProcessor"}


def export_remote_code(folder: str | Path) -> list[str]:
    """Write the code of a saved model or processor into its folder, and `auto_map` into its JSON files.

    Parameters
    ----------
    folder : path
        As `model.save_pretrained` and `processor.save_pretrained` wrote it. Files are replaced atomically.

    Returns
    -------
    names : list of str
        The files that were written.
    """
    root = Path(folder)
    publication = read_folder(root, allow_incomplete=True)
    names = with_remote_code(publication)
    for name in names:
        content = publication.files[name]
        write_bytes(content if isinstance(content, bytes) else content.read_bytes(), root / name)
    return names


def with_remote_code(publication: Publication) -> list[str]:
    """Add the code to a publication, and return the names of the files that were added or changed.

    Adapters, which load onto their base, and datasets need none.
    """
    if publication.kind in ("adapter", "dataset"):
        return []
    from transformers.dynamic_module_utils import get_relative_import_files

    maps: dict[str, dict[str, str]] = {}
    if publication.kind in _AUTO_MAPS:
        maps["config.json"] = _AUTO_MAPS[publication.kind]
    if "processor_config.json" in publication.files:
        has_tokenizer = publication.json("processor_config.json").get("processor_class") == "FmriLMProcessor"
        maps["processor_config.json"] = _PROCESSOR_MAP if has_tokenizer else _EXTRACTOR_MAP
    if "preprocessor_config.json" in publication.files:
        maps["preprocessor_config.json"] = _EXTRACTOR_MAP

    pipelines = _PIPELINES.get(publication.kind, {})
    changed: list[str] = []
    for name, auto_map in maps.items():
        record = publication.json(name) | {"auto_map": auto_map}
        # A processor holds its extractor, which transformers loads separately, by an `auto_map` of its own.
        if isinstance(record.get("feature_extractor"), dict):
            record["feature_extractor"] = {**record["feature_extractor"], "auto_map": _EXTRACTOR_MAP}
        if name == "config.json":
            record["custom_pipelines"] = {
                task: {"impl": implementation, "pt": [auto], "type": "multimodal"}
                for task, (implementation, auto) in pipelines.items()
            }
        publication.set_json(name, dict(sorted(record.items())))
        changed.append(name)
    modules = {reference.split(".")[0] for auto_map in maps.values() for reference in auto_map.values()}
    modules |= {implementation.split(".")[0] for implementation, _ in pipelines.values()}
    if "processor_config.json" in maps:
        modules.add("feature_extraction_fmri")
    # transformers copies a module, its relative imports and theirs into its cache, and fails at the first one that is
    # missing.
    paths = {_MODELS / f"{module}.py" for module in modules}
    for path in sorted(paths):
        paths |= {Path(imported) for imported in get_relative_import_files(path)}
    for path in sorted(paths):
        publication.files[path.name] = path.read_bytes()
        changed.append(path.name)
    return changed
