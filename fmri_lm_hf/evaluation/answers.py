"""How probable a model finds answers: kept beside the models, since checkpoints carry it for their pipelines."""

from __future__ import annotations

from ..models.answers import answer_log_probabilities, encode_question

__all__ = ["answer_log_probabilities", "encode_question"]
