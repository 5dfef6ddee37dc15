"""A language model that reads fMRI scans, with a linear head for classes, several labels, or numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutputWithPast
from transformers.utils import can_return_tuple

from .configuration_fmri_lm import FmriLMConfig
from .modeling_fmri_lm import FmriLMForCausalLM


class FmriLMForSequenceClassification(FmriLMForCausalLM):
    """[`FmriLMForCausalLM`] with a linear head on the hidden state of the last token of a prompt.

    Loads from a checkpoint of [`FmriLMForCausalLM`], whose weights have the same names; the head is then initialised.
    Labels are those of transformers: `num_labels`, or `id2label` and `label2id`, and `problem_type`, which decides
    the loss ("single_label_classification", "multi_label_classification" or "regression"; None: by the number and
    type of the labels).

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
        """Join tokenizer and language model as [`FmriLMForCausalLM.from_components`] does; the head is initialised."""
        model = super().from_components(fmri_tokenizer, language_model, **config)
        # made on the meta device by `from_components`, like all parts that are new
        model.score.to_empty(device=language_model.device)
        init.normal_(model.score.weight, std=model.config.initializer_range)
        return model

    @classmethod
    def can_generate(cls) -> bool:
        """False: it returns numbers, not text."""
        return False

    def generate(self, *args, **kwargs):
        """Refused: only `FmriLMForCausalLM` generates."""
        raise TypeError(
            "A FmriLMForSequenceClassification returns `logits`, not text: load the checkpoint with "
            "`AutoModelForCausalLM` to generate."
        )

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> SequenceClassifierOutputWithPast:
        """Run the model.

        Parameters
        ----------
        input_ids : torch.LongTensor of shape (batch, n_positions)
            Prompts with the placeholders of their scans. Write the question after its scan:
            text sees only what is before it.
        attention_mask : torch.LongTensor of shape (batch, n_positions), optional
            Zero for padding, on either side.
        labels : torch.Tensor, optional
            Class numbers (batch,), or floats: (batch, num_labels) of several labels, (batch,) or (batch, num_labels)
            to regress.
        output_hidden_states : bool, optional
        **kwargs
            Scans and other arguments of [`FmriLMForCausalLM.forward`], except labels.

        Returns
        -------
        SequenceClassifierOutputWithPast
            `logits` of shape (batch, num_labels), and the `loss` if labels are given.
        """
        kwargs.setdefault("logits_to_keep", 1)  # logits of words are not needed; one position is the minimum
        outputs = super().forward(
            input_ids, attention_mask=attention_mask, output_hidden_states=True, return_dict=True, **kwargs
        )
        hidden_states = outputs.hidden_states[-1]
        # The last token that is no padding, which may be on either side: with padding on the right, -1 would be one.
        last = torch.full((len(hidden_states),), -1, device=hidden_states.device)
        if attention_mask is not None:
            present = attention_mask[:, -hidden_states.shape[1] :].to(hidden_states.device)
            last = (torch.arange(1, present.shape[1] + 1, device=present.device) * (present != 0)).argmax(-1)
        rows = torch.arange(len(hidden_states), device=hidden_states.device)
        # the head in its own precision, and logits in float32 for the loss, as the language model does
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
