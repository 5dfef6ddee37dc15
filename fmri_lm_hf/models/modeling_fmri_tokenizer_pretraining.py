"""The fMRI tokenizer with the losses of its training (stage 1 of arXiv 2511.21760), and retrieval of texts by scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_fmri_tokenizer import FmriTokenizerConfig
from .modeling_fmri_tokenizer import FmriTokenizer
from .objectives import TextAlignment, connectivity_loss, coskewness_loss, domain_ramp, mean_over_scans


@dataclass
class FmriTokenizerForPreTrainingOutput(ModelOutput):
    """Output of `FmriTokenizerForPreTraining.forward`.

    Attributes
    ----------
    loss : torch.FloatTensor of shape ()
        Sum of the parts, each times its weight in `config.loss_weights`.
    reconstruction_loss, commitment_loss, connectivity_loss, coskewness_loss, contrastive_loss, domain_loss : \
torch.FloatTensor of shape ()
        The parts, unweighted; None for a part that the configuration, or the batch, does not ask for.
    codebook_usage : torch.FloatTensor of shape ()
        Share of codes that the batch uses, averaged over stages.
    codebook_perplexity : torch.FloatTensor of shape ()
        Perplexity of the codes of the batch, averaged over stages.
    fmri_codes : torch.LongTensor of shape (batch, n_tokens[, num_quantizers])
        None during the first `config.codebook_warmup_steps`.
    embeddings, reconstruction, connectivity
        As in [`FmriTokenizerOutput`].
    """

    loss: torch.FloatTensor | None = None
    reconstruction_loss: torch.FloatTensor | None = None
    commitment_loss: torch.FloatTensor | None = None
    connectivity_loss: torch.FloatTensor | None = None
    coskewness_loss: torch.FloatTensor | None = None
    contrastive_loss: torch.FloatTensor | None = None
    domain_loss: torch.FloatTensor | None = None
    codebook_usage: torch.FloatTensor | None = None
    codebook_perplexity: torch.FloatTensor | None = None
    fmri_codes: torch.LongTensor | None = None
    embeddings: torch.FloatTensor | None = None
    reconstruction: torch.FloatTensor | None = None
    connectivity: torch.FloatTensor | None = None


class StepCounter(nn.Module):
    """Count of optimizer steps, for the warm-up and the ramp; saved in checkpoints."""

    def __init__(self):
        super().__init__()
        self.register_buffer("done", torch.zeros(1, dtype=torch.long))


class FmriTokenizerForPreTraining(FmriTokenizer):
    """A tokenizer with the parts that only training needs: the alignment with texts, and the losses.

    [`FmriTokenizer`] loads its checkpoints too, and ignores these parts.

    Examples
    --------
    >>> import torch
    >>> from fmri_lm_hf import FmriTokenizerConfig, FmriTokenizerForPreTraining
    >>> config = FmriTokenizerConfig(n_rois=8, n_timepoints=40, patch_size=20, hidden_size=16, num_hidden_layers=1,
    ...                              num_attention_heads=2, quantizer="fsq", fsq_levels=[8, 5, 5], text_embed_dim=12)
    >>> model = FmriTokenizerForPreTraining(config)
    >>> output = model(torch.randn(3, 8, 40), text_embeds=torch.randn(3, 12))
    >>> sorted(name for name in output if name.endswith("_loss"))
    ['contrastive_loss', 'domain_loss', 'reconstruction_loss']
    """

    def __init__(self, config: FmriTokenizerConfig):
        super().__init__(config)
        self.alignment = TextAlignment(config) if config.text_embed_dim else None
        self.steps = StepCounter()
        self.post_init()

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, TextAlignment):
            module.init_weights()
        elif isinstance(module, StepCounter):
            init.zeros_(module.done)

    def forward(
        self,
        input_values: Tensor,
        roi_mask: Tensor | None = None,
        padding_mask: Tensor | None = None,
        text_embeds: Tensor | None = None,
        text_token_embeds: Tensor | None = None,
        descriptors: Tensor | None = None,
        other_text_embeds: Tensor | None = None,
        other_descriptors: Tensor | None = None,
    ) -> FmriTokenizerForPreTrainingOutput:
        """Encode, quantize, reconstruct, and compute the losses of stage 1, each a mean over scans.

        Parameters
        ----------
        input_values, roi_mask, padding_mask
            As for `encode`.
        text_embeds : torch.Tensor of shape (batch, text_embed_dim), optional
            Embeddings of the texts that describe the scans; they add the alignment losses.
        text_token_embeds : torch.Tensor of shape (..., text_embed_dim), optional
            Input embeddings of the language model for tokens of texts. With them the domain classifier separates tokens
            of scans and of texts, as published, in place of whole scans and whole texts.
        descriptors : torch.Tensor of shape (batch, n_descriptors), optional
            The soft forms of the contrastive loss compare scans by them, in place of their texts.
        other_text_embeds, other_descriptors : torch.Tensor of shape (n_others, ...), optional
            Of texts that describe none of the scans, such as those of the other scans of the step.
        """
        if self.quantizer is None or self.decoder is None:
            raise ValueError("This tokenizer is `encoder_only` and has no loss; use `encode`.")
        inputs, masks, token_mask = self._prepare(input_values, roi_mask, padding_mask)
        observer = None if self.alignment is None else self.alignment.pooling.observer(input_values.device)
        embeddings, observed = self.encoder(*inputs, observer)
        step = int(self.steps.done)
        codes = None
        if self.training and step < self.config.codebook_warmup_steps:
            latents = quantized = self.quantizer.latents(embeddings)
        else:
            latents, quantized, codes = self.quantizer(embeddings, token_mask)
        # Straight-through: the decoder reads the code, and the encoder receives the gradient as if it were the latent.
        # During the warm-up both are the same, and this is the plain gradient.
        signal, connectivity = self.decoder(latents + (quantized - latents).detach(), token_mask)

        losses = {"reconstruction_loss": self._reconstruction_loss(signal, connectivity, inputs, *masks)}
        if self.quantizer.has_commitment:
            distance = (latents - quantized.detach()).float().square().mean(-1)
            losses["commitment_loss"] = mean_over_scans(distance, token_mask)
        for name, measure in (("connectivity_loss", connectivity_loss), ("coskewness_loss", coskewness_loss)):
            if self.config.loss_weights[name]:
                losses[name] = measure(signal.float(), inputs.input_values, *masks)
        if text_embeds is not None:
            alignment = self._aligned(text_embeds)
            pooled = alignment.pooling(embeddings, token_mask, observed)
            losses["contrastive_loss"] = alignment.contrastive(
                pooled, text_embeds, descriptors, other_text_embeds, other_descriptors
            )
            scans, texts = alignment.scans(pooled), alignment.texts(text_embeds)
            if text_token_embeds is not None:
                # tokens of scans that were observed; those of missing ROIs would be easy to recognise
                scans = alignment.scans(embeddings[token_mask])
                texts = F.normalize(text_token_embeds.detach().flatten(0, -2).to(scans.dtype), dim=-1)
            ramp = domain_ramp(step, self.config.domain_ramp_steps)
            losses["domain_loss"] = alignment.domain(scans, texts, ramp)
        # Once an optimizer step, not once a forward pass: with accumulation, warm-up and ramp would end too early.
        if self.training and self.quantizer.step_ends:
            self.steps.done += 1
        use: dict[str, Tensor] = {}
        if codes is not None:
            statistics = self.code_statistics(codes, token_mask)
            # of one batch and for the log alone, where a codebook that collapses shows
            shares = [used / self.quantizer.codebook_size for used in statistics.used]
            for name, values in (("usage", shares), ("perplexity", statistics.perplexity)):
                use[f"codebook_{name}"] = torch.tensor(sum(values) / len(values), device=codes.device)
        return FmriTokenizerForPreTrainingOutput(
            loss=sum(self.config.loss_weights[name] * value for name, value in losses.items()),
            **losses,
            **use,
            fmri_codes=codes,
            embeddings=embeddings,
            reconstruction=signal,
            connectivity=connectivity,
        )

    @torch.no_grad()
    def start_quantizer(self, batches: Sequence[Mapping[str, Tensor]]) -> None:
        """Start the codebooks from batches of inputs, of all processes; not twice, and not during the warm-up."""
        waits = int(self.steps.done) < self.config.codebook_warmup_steps
        if self.quantizer is None or self.quantizer.started or waits:
            return
        latents = []
        for batch in batches:
            masks = (batch.get("roi_mask"), batch.get("padding_mask"))
            inputs, _, token_mask = self._prepare(batch["input_values"], *masks)
            embeddings, _ = self.encoder(*inputs)
            latents.append(self.quantizer.latents(embeddings)[token_mask])
        self.quantizer.start(torch.cat(latents))

    def without_objectives(self) -> FmriTokenizer:
        with torch.device("meta"):  # no memory for parts that are replaced at once
            tokenizer = FmriTokenizer(self.config)
        for name in ("encoder", "quantizer", "decoder"):
            setattr(tokenizer, name, getattr(self, name))
        tokenizer._recorded_in = self._recorded_in
        return tokenizer.train(self.training)

    def fit_texts(self, text_embeds: Tensor) -> None:
        """Fit the whitening of texts on training texts (n_texts, text_embed_dim); it is saved in checkpoints."""
        self._aligned(text_embeds).fit_texts(text_embeds)

    @torch.no_grad()
    def embed_scans(
        self, input_values: Tensor, roi_mask: Tensor | None = None, padding_mask: Tensor | None = None
    ) -> Tensor:
        """Embed scans as unit vectors (n_scans, text_embed_dim), as `embed_texts` does; parameters as for `encode`."""
        alignment = self._aligned()
        inputs, _, token_mask = self._prepare(input_values, roi_mask, padding_mask)
        embeddings, observed = self.encoder(*inputs, alignment.pooling.observer(input_values.device))
        return alignment.scans(alignment.pooling(embeddings, token_mask, observed))

    @torch.no_grad()
    def embed_texts(self, text_embeds: Tensor) -> Tensor:
        """Embed texts as unit vectors (n_texts, text_embed_dim), from embeddings such as those of training."""
        return self._aligned(text_embeds).texts(text_embeds)

    def retrieve_texts(self, scans: Tensor, texts: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Find the texts that describe each scan best.

        Parameters
        ----------
        scans : torch.Tensor of shape (n_scans, text_embed_dim)
            From `embed_scans`.
        texts : torch.Tensor of shape (n_texts, text_embed_dim)
            From `embed_texts`.
        k : int

        Returns
        -------
        cosines : torch.FloatTensor of shape (n_scans, k)
            Highest first.
        indices : torch.LongTensor of shape (n_scans, k)
        """
        if not 1 <= k <= len(texts):
            raise ValueError(f"`k` must be from 1 to the number of candidates, {len(texts)}, got {k}.")
        best = (scans @ texts.T).topk(k, dim=-1)
        return best.values, best.indices

    def retrieve_scans(self, texts: Tensor, scans: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Find the scans that each text describes best; see `retrieve_texts`."""
        return self.retrieve_texts(texts, scans, k)

    def _aligned(self, text_embeds: Tensor | None = None) -> TextAlignment:
        """The alignment, if the configuration has one."""
        if self.alignment is None:
            size = "the size of the text embeddings" if text_embeds is None else text_embeds.shape[-1]
            raise ValueError(
                "Scans are to be compared with texts, but the configuration has no `text_embed_dim`: "
                f"set it to {size} to align scans with them."
            )
        return self.alignment

    def _reconstruction_loss(self, signal, connectivity, inputs, roi_mask, padding_mask) -> Tensor:
        """Loss of signal and profiles, each over what was observed."""
        measure = F.mse_loss if self.config.reconstruction_loss == "mse" else F.smooth_l1_loss
        losses = []
        if signal is not None:
            observed = roi_mask[:, :, None] & padding_mask[:, None, :]  # (batch, n_rois, n_timepoints)
            values = measure(signal.float(), inputs.input_values, reduction="none")
            losses.append(mean_over_scans(values, observed))
        if inputs.profiles is not None:
            # columns: every ROI of the scan, then its networks, which always count
            n_networks = self.config.profile_size - self.config.n_rois
            observed = roi_mask[:, :, None] & F.pad(roi_mask, (0, n_networks), value=True)[:, None, :]
            values = measure(connectivity.float(), inputs.profiles, reduction="none")
            losses.append(mean_over_scans(values, observed))
        return sum(losses)
