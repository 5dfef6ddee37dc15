"""A language model that reads fMRI scans, with a head in place of words: classes, several labels, or numbers."""

from __future__ import annotations

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutputWithPast
from transformers.utils import can_return_tuple

from .configuration_fmri_lm import FmriLMConfig
from .modeling_fmri_lm import FmriLMForCausalLM


class FmriLMForSequenceClassification(FmriLMForCausalLM):
    """[`FmriLMForCausalLM`] with a linear head on what the last token of a prompt has read.

    Loads from a checkpoint of [`FmriLMForCausalLM`], whose weights have the same names; the head then starts fresh.
    Labels are those of transformers: `num_labels`, or `id2label` and `label2id`, and `problem_type`, which decides
    the loss ("single_label_classification", "multi_label_classification" or "regression"; by the labels' number and
    type where it is None).

    Examples
    --------
    >>> model = AutoModelForSequenceClassification.from_pretrained(
    ...     "demo_output/model", id2label={0: "female", 1: "male"}, label2id={"female": 0, "male": 1})
    >>> inputs = processor(text=["<fmri>What is the sex?"], fmri=["sub-01_bold.nii.gz"])
    >>> model(**inputs).logits.shape
    torch.Size([1, 2])
    """

    # the loss is a mean over the batch: a Trainer has to divide by the number of batches that it accumulates
    accepts_loss_kwargs = False

    def __init__(self, config: FmriLMConfig):
        super().__init__(config)
        self.score = nn.Linear(config.text_config.hidden_size, config.num_labels, bias=False)
        self.post_init()

    @classmethod
    def from_components(cls, fmri_tokenizer, language_model, **config) -> FmriLMForSequenceClassification:
        """Join tokenizer and language model as [`FmriLMForCausalLM.from_components`] does; the head starts fresh."""
        model = super().from_components(fmri_tokenizer, language_model, **config)
        model.score.to_empty(device=language_model.device)
        init.normal_(model.score.weight, std=model.config.initializer_range)
        return model

    @classmethod
    def can_generate(cls) -> bool:
        """It answers with numbers, not with text."""
        return False

    def generate(self, *args, **kwargs):
        """Refuse, and say what can."""
        raise TypeError(
            "A FmriLMForSequenceClassification answers with `logits`, not with text: load the checkpoint with "
            "`AutoModelForCausalLM` to generate."
        )

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> SequenceClassifierOutputWithPast:
        """Run the model.

        Parameters
        ----------
        input_ids : torch.LongTensor of shape (batch, n_positions)
            Prompts with the placeholders of their scans; a question comes behind its scan, or it does not see it.
        attention_mask : torch.LongTensor of shape (batch, n_positions), optional
            Zero for padding, on either side.
        labels : torch.Tensor, optional
            Class numbers (batch,), or floats: (batch, num_labels) of several labels, (batch,) or (batch, num_labels)
            to regress.
        output_hidden_states : bool, optional
        **kwargs
            Scans and all else that [`FmriLMForCausalLM.forward`] takes, but labels.

        Returns
        -------
        SequenceClassifierOutputWithPast
            `logits` of shape (batch, num_labels), and the `loss` where labels are given.
        """
        kwargs.setdefault(
            "logits_to_keep", 1
        )  # words are not asked for; one position is the least to compute
        outputs = super().forward(
            input_ids, attention_mask=attention_mask, output_hidden_states=True, return_dict=True, **kwargs
        )
        hidden_states = outputs.hidden_states[-1]
        last = torch.full((len(hidden_states),), -1, device=hidden_states.device)
        if attention_mask is not None:
            present = attention_mask[:, -hidden_states.shape[1] :].to(hidden_states.device)
            last = (torch.arange(1, present.shape[1] + 1, device=present.device) * (present != 0)).argmax(-1)
        rows = torch.arange(len(hidden_states), device=hidden_states.device)
        logits = self.score(hidden_states[rows, last].to(self.score.weight.dtype)).float()
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states if output_hidden_states else None,
            attentions=outputs.attentions,
        )
