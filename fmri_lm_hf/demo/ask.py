"""Answer a question about scans with a saved model, in a process of its own that is given the model's folder alone.

Run by the demo as ``python -m fmri_lm_hf.demo.ask MODEL QUESTION LABELS SCAN...``; prints JSON.
"""

from __future__ import annotations

import json
import sys

from transformers import AutoModelForCausalLM, AutoProcessor, pipeline

import fmri_lm_hf  # noqa: F401 - registers the classes


def main(model_dir: str, question: str, labels: list[str], scans: list[str]) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    processor = AutoProcessor.from_pretrained(model_dir)
    classify = pipeline("fmri-zero-shot-classification", model=model, processor=processor)
    describe = pipeline("fmri-to-text", model=model, processor=processor)
    answers = []
    for scan in scans:
        scores = classify(scan, candidate_labels=labels, question=question)
        answers.append(
            {
                "scores": {each["label"]: each["score"] for each in scores if each["label"] is not None},
                "declined": scores[0].get("reason"),
                "text": describe(scan, max_new_tokens=60)[0]["generated_text"],
            }
        )
    json.dump({"class": type(model).__name__, "answers": answers}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4:])
