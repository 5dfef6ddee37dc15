"""Pipelines that travel with a checkpoint: a scan in; text, scores, answers or vectors out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, overload

import numpy as np
import torch
from torch import Tensor
from transformers import Pipeline

from .abstention import declined, read_or_decline, recorded_answers, untrained_reason
from .answers import answer_log_probabilities, answers_to_questions, encode_question
from .decision_requests import answers_of, as_text, question_text, read_request


class GeneratedText(TypedDict):
    """Result of `FmriToTextPipeline` for a scan, in a list of one."""

    generated_text: str


class _LabelScore(TypedDict):
    label: str | None
    score: float | None


class LabelScore(_LabelScore, total=False):
    """Result of `FmriZeroShotClassificationPipeline` for each label of a scan; `declined` results have a reason."""

    declined: bool
    reason: str


class ScanFeatures(TypedDict):
    """Result of `FmriFeatureExtractionPipeline` for a scan."""

    pooled: np.ndarray
    tokens: np.ndarray
    token_mask: np.ndarray


class ScanPipeline(Pipeline):
    """Base of the pipelines: they read scans with the processor of their model."""

    _load_processor = True
    _load_tokenizer = False
    _load_feature_extractor: bool | None = False
    _load_image_processor = False

    def preprocess(self, scan: Any, t_r: float | None = None) -> dict[str, Any]:
        # Nested under one key. To make a batch, a `Pipeline` pads each tensor by rules for its key, which know nothing
        # of scans; anything else it hands over as a list, and `join_inputs` makes the batch.
        # The reason why the scan is not readable goes with it: pipelines that answer decline such a scan.
        row, reason = read_or_decline(self.processor.feature_extractor, scan, t_r)
        return {"scans": dict(self.processor(fmri=row)), "reason": reason}


def as_pipeline_input(scans: Any) -> Any:
    """Return one scan as it is, several as a list: `Pipeline` takes any other sequence for a single input."""
    # An image with three axes is one scan, refused further on with a better message. An empty list is refused here:
    # `Pipeline` looks at its first element.
    has_batch_axis = getattr(scans, "ndim", 0) == 3 and not hasattr(scans, "dataobj")
    if not (has_batch_axis or isinstance(scans, (list, tuple))):
        return scans
    if not len(scans):
        raise ValueError("The list of scans is empty: give at least one.")
    return list(scans)


def given(**options: Any) -> dict[str, Any]:
    """Drop options that are None: for these, the values that the pipeline was made with stay."""
    return {name: value for name, value in options.items() if value is not None}


def join_inputs(inputs: Mapping[str, Tensor] | list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Join the inputs of the scans of a batch along the first axis."""
    batch = inputs if isinstance(inputs, list) else [inputs]
    return {name: torch.cat([scan[name] for scan in batch]) for name in batch[0]}


class FmriToTextPipeline(ScanPipeline):
    """Generate text about a scan: a description, or the answer to an open question.

    Examples
    --------
    >>> from transformers import pipeline
    >>> import fmri_lm_hf
    >>> describe = pipeline("fmri-to-text", model="org/fmri-lm")
    >>> describe("sub-01_bold.nii.gz", text="Describe this scan.", max_new_tokens=60)
    [{'generated_text': 'Connectivity between ...'}]
    """

    @overload
    def __call__(self, scans: list[Any] | tuple[Any, ...], **options: Any) -> list[list[GeneratedText]]: ...
    @overload
    def __call__(self, scans: Any, **options: Any) -> list[GeneratedText]: ...
    def __call__(self, scans: Any, **options: Any) -> Any:
        """Generate text about one scan or each scan of a list.

        Parameters
        ----------
        scans : scan or list of scans
            As [`FmriFeatureExtractor`] takes them: the path of a file, an image, an array (n_timepoints, n_rois).
        text : str, default="Describe this scan."
            The question or instruction. A text that holds the placeholder `<fmri>` is used as it is, without the
            chat template.
        t_r : float, optional
            Repetition time in seconds, for scans that do not carry it.
        **generate_kwargs
            Passed to `generate`, such as `max_new_tokens` (default 128), `num_beams`, `do_sample` (default False: the
            same scan gives the same text).

        Returns
        -------
        list of dict, or a list of these for each scan
            ``[{"generated_text": str}]`` for each scan.
        """
        return super().__call__(as_pipeline_input(scans), **options)

    def _sanitize_parameters(self, text=None, t_r=None, **generate_kwargs) -> tuple[dict, dict, dict]:
        return given(text=text, t_r=t_r), generate_kwargs, {}

    def preprocess(self, scan, t_r=None, text="Describe this scan."):
        if self.processor.fmri_token not in text:
            blocks = [{"type": "fmri"}, {"type": "text", "text": text}]
            text = self.processor.render_chat([{"role": "user", "content": blocks}], add_generation_prompt=True)
        return {"inputs": dict(self.processor(text=text, fmri=scan, t_r=t_r, add_special_tokens=False))}

    def _forward(self, model_inputs, **generate_kwargs):
        inputs = join_inputs(model_inputs["inputs"])  # of one length, since all hold the same text
        options = {"max_new_tokens": 128, "do_sample": False, **generate_kwargs}
        return self.model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]

    def postprocess(self, model_outputs) -> list[GeneratedText]:
        return [{"generated_text": self.processor.decode_answer(ids)} for ids in model_outputs.cpu()]


class FmriZeroShotClassificationPipeline(ScanPipeline):
    """Choose among candidate answers to a question about a scan.

    The score of a label is the probability that the model gives it as its whole answer, up to and including the end of
    its turn, divided by the sum of these probabilities over all candidates. A model that is unsure of the wording
    spreads the probability of a long label over more wordings; ``length_normalization=True`` compares the mean
    log-probability per token instead. Nothing is sampled: the same scan gives the same scores.

    A scan that is not readable (`unreadable_reason`) is declined, and so are a question and labels that the checkpoint
    records no training on.

    Examples
    --------
    >>> from transformers import pipeline
    >>> import fmri_lm_hf
    >>> classify = pipeline("fmri-zero-shot-classification", model="org/fmri-lm")
    >>> classify("sub-01_bold.nii.gz", candidate_labels=["female", "male"], question="What is the sex?")
    [{'label': 'female', 'score': 0.83}, {'label': 'male', 'score': 0.17}]
    """

    @overload
    def __call__(
        self, scans: list[Any] | tuple[Any, ...], candidate_labels: Sequence[str], **options: Any
    ) -> list[list[LabelScore]]: ...
    @overload
    def __call__(self, scans: Any, candidate_labels: Sequence[str], **options: Any) -> list[LabelScore]: ...
    def __call__(self, scans: Any, candidate_labels: Sequence[str], **options: Any) -> Any:
        """Score candidate labels for one scan or each scan of a list.

        Parameters
        ----------
        scans : scan or list of scans
            As [`FmriFeatureExtractor`] takes them: the path of a file, an image, an array (n_timepoints, n_rois).
        candidate_labels : sequence of str
            The answers to choose from: at least two, all different.
        question : str, optional
            By default: which of the labels describes the scan.
        t_r : float, optional
            Repetition time in seconds, for scans that do not carry it.
        length_normalization : bool, default=False
            Compare answers by their mean log-probability per token.
        force : bool, default=False
            Give scores also where the pipeline declines; each is marked with ``declined`` and ``reason``.

        Returns
        -------
        list of dict, or a list of these for each scan
            ``{"label": str, "score": float}``, highest score first; the scores sum to one. A declined scan has
            ``[{"label": None, "score": None, "declined": True, "reason": str}]``.
        """
        return super().__call__(as_pipeline_input(scans), candidate_labels=candidate_labels, **options)

    def _sanitize_parameters(
        self, candidate_labels=None, question=None, t_r=None, length_normalization=None, force=None
    ) -> tuple[dict, dict, dict]:
        labels = {} if candidate_labels is None else {"candidate_labels": _check_labels(candidate_labels)}
        scoring = given(question=question, length_normalization=length_normalization)
        forced = given(force=force)
        return given(t_r=t_r), labels | scoring | forced, labels | forced

    def _forward(self, model_inputs, candidate_labels, question=None, length_normalization=False, force=False):
        untrained = untrained_reason(recorded_answers(self.model, self.processor), question, candidate_labels)
        if question is None:
            question = f"Which of these describes this scan: {', '.join(candidate_labels)}?"
        reasons = _reasons(model_inputs["reason"], untrained)
        scans = join_inputs(model_inputs["scans"])
        scores = torch.full((len(reasons), len(candidate_labels)), torch.nan)
        asked = [row for row, reason in enumerate(reasons) if force or reason is None]
        if asked:
            prompt_ids, answer_ids = encode_question(self.processor, question, candidate_labels)
            scans = {name: values[asked] for name, values in scans.items()}
            found = answer_log_probabilities(self.model, prompt_ids, answer_ids, **scans).cpu()
            if length_normalization:
                found = found / torch.tensor([len(ids) for ids in answer_ids])
            scores = scores.to(found.dtype).index_copy(0, torch.tensor(asked), found)
        # one row for each scan: `Pipeline` splits the values of a batch into those of its scans before `postprocess`
        return {"scores": scores, "reason": reasons}

    def postprocess(self, model_outputs, candidate_labels, force=False) -> list[LabelScore]:
        (reason,) = _reasons(model_outputs["reason"])
        if reason is not None and not force:
            return [{"label": None, "score": None, **declined(reason)}]
        scores = model_outputs["scores"][0].double().softmax(-1).tolist()
        ranked = sorted(zip(candidate_labels, scores), key=lambda pair: -pair[1])
        mark: Any = {} if reason is None else declined(reason)
        return [{"label": label, "score": score, **mark} for label, score in ranked]


def _reasons(reasons: Any, otherwise: str | None = None) -> list[str | None]:
    """One reason or those of a batch, as a list; `otherwise` where there is none."""
    listed = reasons if isinstance(reasons, list) else [reasons]
    return [otherwise if reason is None else reason for reason in listed]


def _check_labels(candidate_labels: Sequence[str]) -> list[str]:
    if isinstance(candidate_labels, str) or not all(isinstance(label, str) for label in candidate_labels):
        raise ValueError(f"`candidate_labels` must be a list of strings, got {candidate_labels!r}.")
    if len(set(candidate_labels)) != len(candidate_labels):
        raise ValueError(f"`candidate_labels` must all be different, got {list(candidate_labels)!r}.")
    if len(candidate_labels) < 2:
        raise ValueError(f"`candidate_labels` needs at least two labels, got {list(candidate_labels)!r}.")
    return list(candidate_labels)


_SCAN = "scan"  # the name of a scan in requests that are about it alone


class FmriDecisionPipeline(ScanPipeline):
    """Answer many typed questions about a scan, which is read once.

    Requests and answers are those of transformers' ``pipeline("decision")``, with a scan as asset. There a model
    answers with the letter of an option; a model that reads scans answers in words. The probability of an option is
    that of the option as the whole answer, divided by the sum over all options of the question. Nothing is sampled, and
    questions do not see each other.

    All questions about a scan that is not readable are declined, and so is each question, by its `instructions`, that
    the checkpoint records no training on, or with an option that is none of its answers.

    Examples
    --------
    >>> from transformers import pipeline
    >>> import fmri_lm_hf
    >>> decide = pipeline("fmri-decision", model="org/fmri-lm")
    >>> decide({
    ...     "state": "scan-1",
    ...     "assets": {"scan-1": "sub-01_bold.nii.gz"},
    ...     "questions": {
    ...         "sex": {"type": "choice", "instructions": "The sex?", "criteria": {"female": None, "male": None}},
    ...         "patient": {"type": "noul", "instructions": "Does this person have a diagnosis?"},
    ...     },
    ... })
    {'sex': {'type': 'choice', 'choice': 'female', ...}, 'patient': {'type': 'noul', 'noul': 0.31}}
    """

    @overload
    def __call__(
        self, inputs: list[Any] | tuple[Any, ...], questions: Mapping[str, Any] | None = None, **options: Any
    ) -> list[dict[str, dict[str, Any]]]: ...
    @overload
    def __call__(
        self, inputs: Any, questions: Mapping[str, Any] | None = None, **options: Any
    ) -> dict[str, dict[str, Any]]: ...
    def __call__(self, inputs: Any, questions: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Answer the questions of one request or each request of a list.

        Parameters
        ----------
        inputs : request or list of requests; with `questions`, scan or list of scans
            A request is a dict, or its JSON: ``{"state": ..., "assets": {name: scan}, "questions": {name:
            question}}``. The state, a text or other JSON, names the scan where it belongs. Scans are as
            [`FmriFeatureExtractor`] takes them.
        questions : dict, optional
            Questions about scans alone. A question has a `type`, `instructions` (what is asked) and `criteria`:

            - ``choice``: `criteria` maps the options to descriptions, which may be None;
            - ``score``: `criteria` lists the grades, lowest first;
            - ``noul`` (yes or no): optional `criteria` describe ``true`` and ``false``.
        t_r : float, optional
            Repetition time in seconds, for scans that do not carry it.
        force : bool, default=False
            Answer also where the pipeline declines; such answers are marked with ``declined`` and ``reason``.

        Returns
        -------
        dict, or list of dict
            By the name of the question: for a choice ``{"type", "choice", "confidence", "probabilities"}``, for a score
            ``{"type", "score", "legend", "confidence", "probabilities"}``, and for ``noul`` ``{"type", "noul"}``, the
            probability of yes. Probabilities sum to one. A declined question has ``{"type": str, its type: None,
            "declined": True, "reason": str}``.
        """
        if questions is not None:
            inputs = as_pipeline_input(inputs)
            requests = [
                {"state": _SCAN, "assets": {_SCAN: scan}, "questions": questions}
                for scan in (inputs if isinstance(inputs, list) else [inputs])
            ]
            inputs = requests if isinstance(inputs, list) else requests[0]
        return super().__call__(inputs, **options)

    def _sanitize_parameters(self, t_r=None, force=None) -> tuple[dict, dict, dict]:
        forced = given(force=force)
        return given(t_r=t_r), forced, forced

    def preprocess(self, request, t_r=None):
        before, scan, after, questions = read_request(request)
        # All prompts begin with the state up to the scan and differ after it, which lets `answers_to_questions` read
        # the scan once.
        asked = []
        for question in questions:
            text = "\n\n".join(filter(None, (after, question_text(question))))
            blocks = [{"type": "text", "text": before}, {"type": "fmri"}, {"type": "text", "text": text}]
            blocks = [block for block in blocks if block.get("text") != ""]
            asked.append(encode_question(self.processor, blocks, answers_of(question)))
        row, reason = read_or_decline(self.processor.feature_extractor, scan, t_r)
        reasons = [reason if reason is not None else self._untrained(question) for question in questions]
        scans = self.processor(fmri=row)
        return {"requests": {"questions": questions, "asked": asked, "scans": scans, "reasons": reasons}}

    def _untrained(self, question: Any) -> str | None:
        recorded = recorded_answers(self.model, self.processor)
        return untrained_reason(recorded, as_text(question.instructions), answers_of(question))

    def _forward(self, model_inputs, force=False):
        requests = model_inputs["requests"]
        scored = [self._scored(request, force) for request in (requests if isinstance(requests, list) else [requests])]
        return {"requests": scored if isinstance(requests, list) else scored[0]}

    def _scored(self, request: dict[str, Any], force: bool) -> dict[str, Any]:
        """A request with the scores of its questions, None for those that are declined."""
        asked = [pair for pair, reason in zip(request["asked"], request["reasons"]) if force or reason is None]
        found = iter(answers_to_questions(self.model, asked, **request["scans"]) if asked else ())
        scores = [next(found) if force or reason is None else None for reason in request["reasons"]]
        return {"questions": request["questions"], "scores": scores, "reasons": request["reasons"]}

    def postprocess(self, model_outputs, force=False) -> dict[str, dict[str, Any]]:
        request = model_outputs["requests"]
        return {
            question.name: _decided(question, scores, reason)
            for question, scores, reason in zip(
                request["questions"], request["scores"], request["reasons"], strict=True
            )
        }


def _decided(question: Any, scores: Tensor | None, reason: str | None) -> dict[str, Any]:
    """The answer to a question of a request, without or beside a reason to decline."""
    mark: Any = {} if reason is None else declined(reason)
    if scores is None:
        return {"type": question.type, question.type: None, **mark}
    return {**question.answer(scores[0].double().softmax(-1).tolist()), **mark}


class FmriFeatureExtractionPipeline(ScanPipeline):
    """Turn scans into vectors, for a classifier, a search or a plot.

    A tokenizer gives the features that it quantizes; a language model gives its last hidden states at the tokens of
    the scan, without text. Nothing is trained or sampled: the same scan gives the same vectors.

    Examples
    --------
    >>> from transformers import pipeline
    >>> import fmri_lm_hf
    >>> embed = pipeline("fmri-feature-extraction", model="org/fmri-tokenizer")
    >>> features = embed("sub-01_bold.nii.gz")
    >>> features["pooled"].shape, features["tokens"].shape
    ((128,), (160, 128))
    """

    feature_extractor: Any
    _load_processor = False
    _load_feature_extractor = None  # loaded if the checkpoint has one; a processor holds one, too

    def __init__(self, *args, processor: Any = None, **kwargs):
        super().__init__(*args, processor=processor, **kwargs)
        if self.feature_extractor is None:
            self.feature_extractor = getattr(processor, "feature_extractor", processor)
        if self.feature_extractor is None:
            raise ValueError(
                "The pipeline has no feature extractor to read scans with: give `feature_extractor` or `processor`, or "
                "the model as a folder or Hub id that holds one."
            )

    @overload
    def __call__(self, scans: list[Any] | tuple[Any, ...], **options: Any) -> list[ScanFeatures]: ...
    @overload
    def __call__(self, scans: Any, **options: Any) -> ScanFeatures: ...
    def __call__(self, scans: Any, **options: Any) -> Any:
        """Turn one scan, or each scan of a list, into vectors.

        Parameters
        ----------
        scans : scan or list of scans
            As [`FmriFeatureExtractor`] takes them: the path of a file, an image, an array (n_timepoints, n_rois).
        t_r : float, optional
            Repetition time in seconds, for scans that do not carry it.

        Returns
        -------
        dict of ndarray, or list of these dicts
            ``tokens`` (n_tokens, size) float32, one row for each ROI and time patch (patch by patch), latent token or
            network pair; ``token_mask`` (n_tokens,), False for tokens without observed data; and ``pooled`` (size,),
            the mean over the other tokens.
        """
        return super().__call__(as_pipeline_input(scans), **options)

    def _sanitize_parameters(self, t_r=None) -> tuple[dict, dict, dict]:
        return given(t_r=t_r), {}, {}

    def preprocess(self, scan, t_r=None):
        return {"scans": dict(self.feature_extractor(scan, t_r=t_r))}

    def _forward(self, model_inputs):
        tokens, token_mask = self.model.scan_tokens(**join_inputs(model_inputs["scans"]))
        return {"tokens": tokens.float(), "token_mask": token_mask}

    def postprocess(self, model_outputs) -> ScanFeatures:
        # over observed tokens: those of missing ROIs have hidden states too, which mean nothing
        tokens, token_mask = (model_outputs[name][0].cpu() for name in ("tokens", "token_mask"))
        pooled = tokens[token_mask].mean(0)
        return {"pooled": pooled.numpy(), "tokens": tokens.numpy(), "token_mask": token_mask.numpy()}
