"""`pipeline("fmri-to-text")`: text about a scan."""

from __future__ import annotations

from typing import Any

from transformers import Pipeline

from .pipeline_inputs import as_pipeline_input, join_inputs


class FmriToTextPipeline(Pipeline):
    """Generate text about a scan: a description, or the answer to an open question.

    Examples
    --------
    >>> from transformers import pipeline
    >>> import fmri_lm_hf
    >>> describe = pipeline("fmri-to-text", model="org/fmri-lm")
    >>> describe("sub-01_bold.nii.gz", text="Describe this scan.", max_new_tokens=60)
    [{'generated_text': 'Connectivity between ...'}]
    """

    _load_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False

    def __call__(self, scans: Any, **kwargs) -> list:
        """Generate text about a scan or about each scan of a list.

        Parameters
        ----------
        scans : scan or list of scans
            As [`FmriFeatureExtractor`] takes them: a file's path, an image, an array (n_timepoints, n_rois).
        text : str, default="Describe this scan."
            What is asked. A text that holds the placeholder `<fmri>` is used as it stands, without the chat
            template.
        t_r : float, optional
            Repetition time in seconds, where the scans do not tell it.
        **generate_kwargs
            Passed on to `generate`, such as `max_new_tokens` (default 128), `num_beams`, `do_sample` (default
            False, so that the same scan gives the same text).

        Returns
        -------
        list of dict, or list of these lists
            ``[{"generated_text": str}]`` for each scan.
        """
        return super().__call__(as_pipeline_input(scans), **kwargs)

    def _sanitize_parameters(self, text=None, t_r=None, **generate_kwargs) -> tuple[dict, dict, dict]:
        preparing = {name: value for name, value in (("text", text), ("t_r", t_r)) if value is not None}
        return preparing, generate_kwargs, {}

    def preprocess(self, scan, text="Describe this scan.", t_r=None):
        if self.processor.fmri_token not in text:
            blocks = [{"type": "fmri"}, {"type": "text", "text": text}]
            text = self.processor.render_chat(
                [{"role": "user", "content": blocks}], add_generation_prompt=True
            )
        return {"inputs": dict(self.processor(text=text, fmri=scan, t_r=t_r, add_special_tokens=False))}

    def _forward(self, model_inputs, **generate_kwargs):
        inputs = join_inputs(model_inputs["inputs"])  # of one length, since all hold the same text
        generated = self.model.generate(
            **inputs, **{"max_new_tokens": 128, "do_sample": False, **generate_kwargs}
        )
        return generated[:, inputs["input_ids"].shape[1] :]

    def postprocess(self, model_outputs):
        return [{"generated_text": self.processor.decode_answer(ids)} for ids in model_outputs.cpu()]


__all__ = ["FmriToTextPipeline"]
