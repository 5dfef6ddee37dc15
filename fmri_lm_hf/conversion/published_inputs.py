"""Find what a converted model needs besides its weights: atlas, preprocessing, text tokenizer, scan delimiters.

None of these is in a published checkpoint. Functions return notes for the user with what they found or assumed.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from ..hub.download import downloaded_commit
from ..models.atlas import Atlas
from ..models.configuration_fmri_tokenizer import FmriTokenizerConfig, check_config_is_inert
from ..models.feature_extraction_fmri import FmriFeatureExtractor

# ---- the 450 ROI slots

# One hemisphere of Tian scale III, in label order. Tian's labels begin with the right hemisphere, Schaefer's with the
# left: with the sides exchanged every shape still fits, and each subcortical ROI has the name of its mirror image.
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
    """Return the atlas of the published model: 450 named slots, which fit the user's copy of the label image.

    The image itself is not part of this package: `published_atlas().with_labels_img(path)` adds it.
    """
    names = [f"{region}-{side}" for side in ("rh", "lh") for region in _SUBCORTEX]
    networks = ["Subcortex"] * len(names)
    for hemisphere, regions in _CORTEX.items():
        for entry in regions.split():
            region, _, n_parcels = entry.partition(":")
            names += [f"7Networks_{hemisphere}_{region}_{i + 1}" for i in range(int(n_parcels))]
            networks += [region.split("_")[0]] * int(n_parcels)
    labels = tuple(range(1, len(names) + 1))
    return Atlas("schaefer_400_7networks_tian_s3", tuple(names), tuple(networks), labels=labels)


# ---- preprocessing

T_R = 2.0  # seconds


def published_feature_extractor(
    config: FmriTokenizerConfig, atlas: str | Path | Atlas | None, normalization: str | Path | None
) -> tuple[FmriFeatureExtractor, list[str]]:
    """Build the published preprocessing, and return it with notes for the user.

    TR 2.0 s by linear resampling; the first time points, or nearest-neighbour stretching of shorter scans; robust
    scaling of each ROI by the statistics of a cohort or, without them, by the scan's own.
    """
    notes = []
    if atlas is None and config.n_rois == published_atlas().n_rois:
        atlas = published_atlas()
        notes.append(
            "The ROI slots have the names of the label image that the published program extracts time series with: 50 "
            "regions of Tian scale III, then the 400 parcels of Schaefer (7 networks)."
        )
    elif isinstance(atlas, (str, Path)):
        atlas = Atlas.from_json(atlas) if Path(atlas).suffix == ".json" else Atlas.load(str(atlas))
    if atlas is None:
        notes.append(f"The {config.n_rois} ROI slots have no names; give an atlas to name them.")
    elif atlas.n_rois != config.n_rois:
        raise ValueError(
            f"The atlas {atlas.name!r} has {atlas.n_rois} ROIs, but the checkpoint has {config.n_rois} ROI slots: "
            "give the atlas that it was trained with."
        )
    statistics = {} if normalization is None else _read_statistics(normalization, config.n_rois)
    notes.append(
        "Scans are normalised by the given medians and IQRs."
        if statistics
        else "Scans are normalised by their own medians and IQRs; the cohort statistics of the published program were "
        "not released."
    )
    extractor = FmriFeatureExtractor(
        atlas=atlas,
        n_rois=config.n_rois,
        n_timepoints=config.n_timepoints,
        t_r=T_R,
        resampling="linear",
        short_scans="stretch",
        normalization="cohort" if statistics else "scan",
        **statistics,
    )
    return extractor, notes


def _read_statistics(path: str | Path, n_rois: int) -> dict[str, Any]:
    """Read `roi_median` and `roi_iqr` from the `medians` and `iqrs` of a `.npz` or JSON file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}' with normalisation statistics.")
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            statistics = dict(arrays)
    else:
        statistics = _read_json(path)
    if not {"medians", "iqrs"} <= set(statistics):
        raise ValueError(f"'{path}' must hold `medians` and `iqrs`, found {sorted(statistics)}.")
    values = {"roi_median": np.ravel(statistics["medians"]), "roi_iqr": np.ravel(statistics["iqrs"])}
    for name, array in values.items():
        if array.size not in (1, n_rois):
            raise ValueError(f"'{path}' has {array.size} values for `{name}`; expected 1 or {n_rois}.")
    return {name: np.broadcast_to(array.astype(float), n_rois).tolist() for name, array in values.items()}


# ---- the language model and its text tokenizer

# "name" or "organisation/name", as the Hub allows them: a checkpoint must not name a folder of this machine.
_HUB_ID = re.compile(r"(?!\.)[\w.-]{1,96}(/(?!\.)[\w.-]{1,96})?", re.ASCII)


def load_text_model_files(
    text_config: str | Path | dict[str, Any] | PreTrainedConfig | None, arguments: Mapping[str, Any]
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase | None, list[str]]:
    """Load the configuration of the language model and, where it is known, its tokenizer; return them with notes."""
    if text_config is None:
        text_config = _named_language_model(arguments)
    tokenizer = None
    notes: list[str] = []
    if isinstance(text_config, (str, Path)) and not _is_json(text_config):
        config, tokenizer, notes = _from_hub(str(text_config))
    elif isinstance(text_config, PreTrainedConfig):
        config = copy.deepcopy(text_config)
    else:
        fields = text_config if isinstance(text_config, dict) else _read_json(Path(text_config))
        if "model_type" not in fields:
            raise ValueError("The language model's configuration has no `model_type`, such as 'gpt2' or 'qwen3'.")
        # private fields (`_name_or_path`, `_commit_hash`) are no settings, but traces of where it was once loaded from
        public = {key: value for key, value in fields.items() if not key.startswith("_")}
        config = AutoConfig.for_model(**public)
    check_config_is_inert(config.to_dict(), "text_config")
    config._name_or_path = ""
    if tokenizer is None:
        notes.append(
            "The text tokenizer is unknown, so there is no processor: call the model with `input_ids`, or convert "
            "again with the id or folder of the language model as `text_config`."
        )
    elif tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return config, tokenizer, notes


def _named_language_model(arguments: Mapping[str, Any]) -> str:
    """Return the Hub id of the language model that a checkpoint names."""
    named = arguments.get("base_model")
    if not named:
        raise ValueError(
            "The checkpoint does not name its language model (`model_args` has no `base_model`): give `text_config` "
            "(`--text-config`), a JSON file or an id on the Hub."
        )
    if not (isinstance(named, str) and _HUB_ID.fullmatch(named)):
        found = repr(named[:200]) if isinstance(named, str) else f"a {type(named).__name__}"
        raise ValueError(
            f"The checkpoint names {found} as its language model (`base_model` of `model_args`), which is not an id on "
            "the Hub: give `text_config` (`--text-config`), a JSON file or an id."
        )
    return named


def _from_hub(name: str) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase | None, list[str]]:
    """Load configuration and tokenizer from the Hub or a model folder; a repository may have no tokenizer."""
    try:
        # False, since the default is to ask whether to run the repository's code. The name may come from the
        # checkpoint, so that an attacker would choose what the user is asked about.
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except OSError as error:
        raise OSError(
            f"The configuration of the language model '{name}' could not be loaded from the Hub or its cache: go "
            "online, or give it as `text_config` (`--text-config`), a JSON file or a model folder."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"The language model '{name}' needs code from its repository, which is not run, or has an architecture "
            "that this version of transformers does not know: give the configuration of a known architecture as "
            "`text_config` (`--text-config`)."
        ) from error
    notes = []
    commit = downloaded_commit(name)  # none for a local folder
    if commit:
        notes.append(f"Configuration and text tokenizer of the language model: '{name}' on the Hub, commit {commit}.")
    try:
        # the commit of the configuration: a branch may move between the two downloads
        tokenizer = AutoTokenizer.from_pretrained(
            name, revision=commit or "main", padding_side="left", trust_remote_code=False
        )
    except (OSError, ValueError):
        return config, None, [*notes, f"'{name}' has no text tokenizer that could be loaded."]
    return config, tokenizer, notes


def _is_json(path: str | Path) -> bool:
    """Return whether this is a file and not a folder or id; a missing `.json` file must not be looked up on the Hub."""
    if Path(path).suffix == ".json" and not Path(path).is_file():
        raise FileNotFoundError(f"There is no file '{path}' with the language model's configuration.")
    return Path(path).is_file()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"'{path}' is not readable JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' must hold one JSON object, found a {type(content).__name__}.")
    return content


# ---- prompts

DELIMITER_TAGS = ("<fmri>", "</fmri>")

# The published instruction format: the scan first, outside of the user's turn, and a blank before the answer.
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] }}END"
    "{% else %}"
    "{{ '<fmri>' * (message['content'].split('<fmri>') | length - 1) }}"
    "BEGIN{{ '### Question: ' + message['content'].replace('<fmri>', '') | trim + '\\n### Answer:' }}ANSWER"
    "{% endif %}"
    "{% endfor %}"
)


def published_chat_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the prompt format of the published program: the chat turns of Qwen, or plain text without them."""
    own = str(tokenizer.chat_template or "")
    marks = {"BEGIN": "", "ANSWER": "", "END": "{{ eos_token }}"}
    if "<|im_start|>" in own:
        no_thinking = "<think>\n\n</think>\n\n" if "<think>" in own else ""
        marks = {
            "BEGIN": "{% if not loop.first %}{{ '\\n' }}{% endif %}<|im_start|>user\n",
            "ANSWER": f"<|im_end|>\n<|im_start|>assistant\n{no_thinking}",
            "END": "<|im_end|>",
        }
    template = _CHAT_TEMPLATE
    for mark, text in marks.items():
        template = template.replace(mark, text)
    return template


def find_delimiter_ids(
    delimiter_ids: tuple[Sequence[int], Sequence[int]] | None,
    arguments: Mapping[str, Any],
    vocab_size: int,
    tokenizer: PreTrainedTokenizerBase | None,
) -> tuple[tuple[list[int], list[int]], list[str]]:
    """Return the token ids before and after a scan, with notes; no ids where the model uses none or they are unknown.

    The published program encloses a scan in the text `<fmri>` and `</fmri>`. These are no special tokens: only the
    tokenizer that the model was trained with splits them into the right ids.
    """
    if delimiter_ids is not None:
        start, end = map(list, delimiter_ids)
        outside = [token_id for token_id in start + end if not 0 <= token_id < vocab_size]
        if outside:
            raise ValueError(
                f"The delimiter ids {outside} lie outside the vocabulary of the language model (0 to {vocab_size - 1})."
            )
    elif not arguments.get("add_fmri_delimiter"):
        start, end = [], []
    elif tokenizer is None:
        note = (
            "The checkpoint was trained with delimiter ids around a scan, which are unknown without its text "
            f"tokenizer: put its encoding of {' and '.join(DELIMITER_TAGS)} around the scan tokens in `input_ids`."
        )
        return ([], []), [note]
    else:
        start, end = (tokenizer.encode(tag) for tag in DELIMITER_TAGS)
    return (start, end), [f"Scan tokens are enclosed by the token ids {start} and {end}."] if start or end else []
