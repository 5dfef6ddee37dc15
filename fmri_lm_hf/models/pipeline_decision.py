"""`pipeline("fmri-decision")`: typed questions about a scan, with a probability for every option."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import Pipeline

from .answers import answers_to_questions, encode_question
from .pipeline_inputs import as_pipeline_input

_SCAN = "scan"  # what stands for the scan where questions are asked about scans alone
_YES_OR_NO = {"true": "yes", "false": "no"}


class FmriDecisionPipeline(Pipeline):
    """Answer typed questions about a scan, many of them from one reading of it.

    Requests and answers are those of transformers' ``pipeline("decision")``, with a scan as asset. There the options
    have letters, which a model is told to answer with. A model that reads scans answers in words, so here an option's
    probability is that of the option as the whole answer, divided by the sum over all options of the question.
    Nothing is sampled, and no question sees another.

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

    _load_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False

    def __call__(self, inputs: Any, questions: Mapping[str, Any] | None = None, **kwargs) -> Any:
        """Answer the questions of one request or of each request of a list.

        Parameters
        ----------
        inputs : request or list of requests; with `questions`, scan or list of scans
            A request is a dict, or its JSON: ``{"state": ..., "assets": {name: scan}, "questions": {name:
            question}}``. The state, a text or other JSON, names the scan where it belongs. Scans are as
            [`FmriFeatureExtractor`] takes them.
        questions : dict, optional
            Questions to ask about scans alone. A question has a `type`, `instructions` (what is asked) and `criteria`:

            - ``choice``: `criteria` maps the options to descriptions, which may be None;
            - ``score``: `criteria` lists the levels, lowest first;
            - ``noul`` (yes or no): optional `criteria` describe ``true`` and ``false``.
        t_r : float, optional
            Repetition time in seconds, where the scans do not tell it.

        Returns
        -------
        dict, or list of dict
            For each question by its name: of a choice ``{"type", "choice", "confidence", "probabilities"}``, of a score
            ``{"type", "score", "legend", "confidence", "probabilities"}``, and of ``noul`` ``{"type", "noul"}``, the
            probability of yes. Probabilities sum to one.
        """
        if questions is not None:
            scans = as_pipeline_input(inputs)
            inputs = (
                [_about(scan, questions) for scan in scans]
                if isinstance(scans, list)
                else _about(scans, questions)
            )
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(self, t_r=None) -> tuple[dict, dict, dict]:
        return ({} if t_r is None else {"t_r": t_r}), {}, {}

    def preprocess(self, request, t_r=None):
        before, scan, after, questions = _read_request(request)
        asked = []
        for question in questions:
            text = "\n\n".join(filter(None, (after, _asks(question))))
            blocks = [{"type": "text", "text": before}, {"type": "fmri"}, {"type": "text", "text": text}]
            blocks = [block for block in blocks if block.get("text") != ""]
            asked.append(encode_question(self.processor, blocks, _answers(question)))
        return {
            "requests": {"questions": questions, "asked": asked, "scans": self.processor(fmri=scan, t_r=t_r)}
        }

    def _forward(self, model_inputs):
        requests = model_inputs["requests"]
        scored = [
            {
                "questions": request["questions"],
                "scores": answers_to_questions(self.model, request["asked"], **request["scans"]),
            }
            for request in (requests if isinstance(requests, list) else [requests])
        ]
        return {"requests": scored if isinstance(requests, list) else scored[0]}

    def postprocess(self, model_outputs):
        request = model_outputs["requests"]
        return {
            question.name: question.answer(scores[0].double().softmax(-1).tolist())
            for question, scores in zip(request["questions"], request["scores"], strict=True)
        }


def _about(scan: Any, questions: Mapping[str, Any]) -> dict[str, Any]:
    return {"state": _SCAN, "assets": {_SCAN: scan}, "questions": questions}


def _read_request(request: Any) -> tuple[str, Any, str, list[Any]]:
    """The state before the scan, the scan, the state behind it, and the questions as transformers parses them."""
    try:
        from transformers.decision import DecisionConfig, parse_questions
    except ImportError as error:
        raise ImportError(
            'pipeline("fmri-decision") reads requests as pipeline("decision") does, which this version of '
            "transformers does not have: pip install -U transformers."
        ) from error

    if isinstance(request, str):
        request = json.loads(request)
    if not isinstance(request, Mapping) or not {"state", "questions", "assets"} <= set(request):
        found = sorted(request) if isinstance(request, Mapping) else type(request).__name__
        raise ValueError(
            'A request is {"state": ..., "assets": {name: scan}, "questions": {name: question}}, as a dict or its '
            f"JSON, found {found}. To ask about scans alone, give `questions` behind them."
        )
    assets = request["assets"]
    if not isinstance(assets, Mapping) or len(assets) != 1:
        found = sorted(assets) if isinstance(assets, Mapping) else assets
        raise ValueError(f"The assets of a request must be one scan by its name, found {found!r}.")
    ((name, scan),) = assets.items()
    parts = _text(request["state"]).split(name)
    if len(parts) != 2:
        raise ValueError(
            f"The state must name the scan {name!r} once, where it belongs, found it {len(parts) - 1} times in "
            f"{_text(request['state'])!r}."
        )
    questions = parse_questions(dict(request["questions"]), DecisionConfig())
    for question in questions:
        if question.instructions is None:
            raise ValueError(
                f"Question {question.name!r} has no `instructions`: write there what is asked about the scan."
            )
        answers = _answers(question)
        if len(set(answers)) != len(answers):
            raise ValueError(f"Question {question.name!r}: its options must all be different, got {answers}.")
    return parts[0], scan, parts[1].lstrip(), questions


def _answers(question: Any) -> list[str]:
    """What a model would say for each option of a question."""
    if question.type == "noul":
        return [_YES_OR_NO[option] for option in question.options]
    return [_text(each) for each in (question.descriptions if question.type == "score" else question.options)]


def _asks(question: Any) -> str:
    """The words of a question, with a line for each option that is described."""
    lines = [_text(question.instructions)]
    if question.type != "score":
        described: Sequence[tuple[str, Any]] = list(
            zip(_answers(question), question.descriptions, strict=True)
        )
        lines += [f"{answer}: {_text(description)}" for answer, description in described if description]
    return "\n".join(lines)


def _text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


__all__ = ["FmriDecisionPipeline"]
