"""Training of the fMRI tokenizer (stage 1 of arXiv 2511.21760): its losses, and retrieval of texts by scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_fmri_tokenizer import FmriTokenizerConfig
from .modeling_fmri_tokenizer import FmriTokenizer
from .objectives import TextAlignment, connectivity_loss, coskewness_loss, domain_ramp, mean_over_scans
from .quantizers import CodeStatistics


@dataclass
class FmriTokenizerForPreTrainingOutput(ModelOutput):
    """What `FmriTokenizerForPreTraining.forward` returns.

    Attributes
    ----------
    loss : torch.FloatTensor of shape ()
        Sum of the parts that are there, each times its weight in `config.loss_weights`.
    reconstruction_loss, commitment_loss, connectivity_loss, coskewness_loss, contrastive_loss, domain_loss : \
torch.FloatTensor of shape ()
        The parts, unweighted; None where the configuration, or the batch, has no use for one.
    codebook_usage : torch.FloatTensor of shape ()
        Share of codes that the batch uses, averaged over levels.
    codebook_perplexity : torch.FloatTensor of shape ()
        Perplexity of the codes of the batch, averaged over levels.
    fmri_codes : torch.LongTensor of shape (batch, n_tokens[, num_quantizers])
        None while the codebooks wait for `config.codebook_warmup_steps`.
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
    """Optimizer steps so far, for what begins or grows with them; kept in checkpoints."""

    def __init__(self):
        super().__init__()
        self.register_buffer("done", torch.zeros(1, dtype=torch.long))


class FmriTokenizerForPreTraining(FmriTokenizer):
    """A tokenizer with what only its training needs: the alignment with texts, and the losses.

    Its checkpoints are those of [`FmriTokenizer`], which leaves the rest where it is.

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
        input_values: torch.Tensor,
        roi_mask: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
        text_embeds: torch.Tensor | None = None,
        text_token_embeds: torch.Tensor | None = None,
        descriptors: torch.Tensor | None = None,
        other_text_embeds: torch.Tensor | None = None,
        other_descriptors: torch.Tensor | None = None,
    ) -> FmriTokenizerForPreTrainingOutput:
        """Encode, quantize, reconstruct, and measure the losses of stage 1, each a mean over scans.

        Parameters
        ----------
        input_values, roi_mask, padding_mask
            As for `encode`.
        text_embeds : torch.Tensor of shape (batch, text_embed_dim), optional
            Embeddings of the texts that describe the scans, which adds the alignment losses.
        text_token_embeds : torch.Tensor of shape (..., text_embed_dim), optional
            Input embeddings of the language model for tokens of texts. With them the domain classifier tells tokens of
            scans from tokens of texts, as published, in place of whole scans from whole texts.
        descriptors : torch.Tensor of shape (batch, n_descriptors), optional
            By which the soft forms of the contrastive loss compare scans, in place of their texts.
        other_text_embeds, other_descriptors : torch.Tensor of shape (n_others, ...), optional
            Of texts that describe none of the scans, such as those of the step's other scans.
        """
        if self.quantizer is None or self.decoder is None:
            raise ValueError("This tokenizer is `encoder_only` and has no loss; use `encode`.")
        inputs = self._observed(input_values, roi_mask, padding_mask)
        input_values, roi_mask, padding_mask = inputs
        token_mask = self.token_mask(roi_mask, padding_mask)
        profiles = self._profiles(*inputs)
        observer = None if self.alignment is None else self.alignment.pooling.observer(input_values.device)
        embeddings, observed = self.encoder(
            input_values, profiles, self._grid_mask(roi_mask, padding_mask), observer
        )
        step = int(self.steps.done)
        codes = None
        if self.training and step < self.config.codebook_warmup_steps:
            latents = quantized = self.quantizer.latents(embeddings)
        else:
            latents, quantized, codes = self.quantizer(embeddings, token_mask)
        # straight-through: the decoder reads the code, the encoder receives its gradient
        signal, connectivity = self.decoder(latents + (quantized - latents).detach(), token_mask)

        losses = {"reconstruction_loss": self._reconstruction_loss(signal, connectivity, profiles, *inputs)}
        if self.quantizer.has_commitment:
            distance = (latents - quantized.detach()).float().square().mean(-1)
            losses["commitment_loss"] = mean_over_scans(distance, token_mask)
        for name, measure in (("connectivity_loss", connectivity_loss), ("coskewness_loss", coskewness_loss)):
            if self.config.loss_weights[name]:
                losses[name] = measure(signal.float(), *inputs)
        if text_embeds is not None:
            alignment = self._aligned(text_embeds)
            pooled = alignment.pooling(embeddings, token_mask, observed)
            losses["contrastive_loss"] = alignment.contrastive(
                pooled, text_embeds, descriptors, other_text_embeds, other_descriptors
            )
            scans, texts = alignment.scans(pooled), alignment.texts(text_embeds)
            if text_token_embeds is not None:
                scans = alignment.scans(embeddings[token_mask])
                texts = F.normalize(text_token_embeds.detach().flatten(0, -2).to(scans.dtype), dim=-1)
            ramp = domain_ramp(step, self.config.domain_ramp_steps)
            losses["domain_loss"] = alignment.domain(scans, texts, ramp)
        if self.training and self.quantizer.step_ends:
            self.steps.done += 1
        return FmriTokenizerForPreTrainingOutput(
            loss=sum(self.config.loss_weights[name] * value for name, value in losses.items()),
            **losses,
            **({} if codes is None else _use(self.code_statistics(codes, token_mask), codes.device)),
            fmri_codes=codes,
            embeddings=embeddings,
            reconstruction=signal,
            connectivity=connectivity,
        )

    @torch.no_grad()
    def start_quantizer(self, batches: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """Start the codebooks from batches of inputs, of all processes, unless they were started or have to wait."""
        waits = int(self.steps.done) < self.config.codebook_warmup_steps
        if self.quantizer is None or self.quantizer.started or waits:
            return
        latents = []
        for batch in batches:
            given = [batch["input_values"], batch.get("roi_mask"), batch.get("padding_mask")]
            inputs = self._observed(*given)
            masks = inputs[1:]
            embeddings, _ = self.encoder(inputs[0], self._profiles(*inputs), self._grid_mask(*masks))
            latents.append(self.quantizer.latents(embeddings)[self.token_mask(*masks)])
        self.quantizer.start(torch.cat(latents))

    def without_objectives(self) -> FmriTokenizer:
        with torch.device("meta"):  # without memory for parts that are replaced at once
            tokenizer = FmriTokenizer(self.config)
        for name in ("encoder", "quantizer", "decoder"):
            setattr(tokenizer, name, getattr(self, name))
        tokenizer._recorded_in = self._recorded_in
        return tokenizer.train(self.training)

    def fit_texts(self, text_embeds: torch.Tensor) -> None:
        """Whiten all texts by the statistics of training texts (n_texts, text_embed_dim); checkpoints keep them."""
        self._aligned(text_embeds).fit_texts(text_embeds)

    @torch.no_grad()
    def embed_scans(
        self,
        input_values: torch.Tensor,
        roi_mask: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Unit vectors of scans (n_scans, text_embed_dim) in the space of `embed_texts`; parameters as for `encode`."""
        alignment = self._aligned()
        inputs = self._observed(input_values, roi_mask, padding_mask)
        token_mask, grid_mask = self.token_mask(*inputs[1:]), self._grid_mask(*inputs[1:])
        observer = alignment.pooling.observer(inputs[0].device)
        embeddings, observed = self.encoder(inputs[0], self._profiles(*inputs), grid_mask, observer)
        return alignment.scans(alignment.pooling(embeddings, token_mask, observed))

    @torch.no_grad()
    def embed_texts(self, text_embeds: torch.Tensor) -> torch.Tensor:
        """Unit vectors of texts (n_texts, text_embed_dim), from embeddings such as those of training."""
        return self._aligned(text_embeds).texts(text_embeds)

    def retrieve_texts(
        self, scans: torch.Tensor, texts: torch.Tensor, k: int = 1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The texts that describe each scan best.

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
            raise ValueError(f"`k` must be from 1 to the {len(texts)} there are to choose from, got {k}.")
        best = (scans @ texts.T).topk(k, dim=-1)
        return best.values, best.indices

    def retrieve_scans(
        self, texts: torch.Tensor, scans: torch.Tensor, k: int = 1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The scans that each text describes best, as `retrieve_texts` the other way round."""
        return self.retrieve_texts(texts, scans, k)

    def _aligned(self, text_embeds: torch.Tensor | None = None) -> TextAlignment:
        """The alignment, if the configuration has one."""
        if self.alignment is None:
            size = "the size of the text embeddings" if text_embeds is None else text_embeds.shape[-1]
            raise ValueError(
                "Scans are to be compared with texts, but the configuration has no `text_embed_dim`: "
                f"set it to {size} to align scans with them."
            )
        return self.alignment

    def _reconstruction_loss(
        self, signal, connectivity, profiles, input_values, roi_mask, padding_mask
    ) -> torch.Tensor:
        """Loss of signal and profiles, each over what was observed."""
        measure = F.mse_loss if self.config.reconstruction_loss == "mse" else F.smooth_l1_loss
        losses = []
        if signal is not None:
            observed = roi_mask[:, :, None] & padding_mask[:, None, :]  # (batch, n_rois, n_timepoints)
            losses.append(mean_over_scans(measure(signal.float(), input_values, reduction="none"), observed))
        if profiles is not None:
            n_networks = self.config.profile_size - self.config.n_rois
            observed = roi_mask[:, :, None] & F.pad(roi_mask, (0, n_networks), value=True)[:, None, :]
            losses.append(
                mean_over_scans(measure(connectivity.float(), profiles, reduction="none"), observed)
            )
        return sum(losses)


def _use(statistics: CodeStatistics, device: torch.device) -> dict[str, torch.Tensor]:
    """Statistics averaged over levels, as parts of an output."""
    n_levels = len(statistics.used)
    shares = [used / (used + dead) for used, dead in zip(statistics.used, statistics.dead)]
    return {
        "codebook_usage": torch.tensor(sum(shares) / n_levels, device=device),
        "codebook_perplexity": torch.tensor(sum(statistics.perplexity) / n_levels, device=device),
    }
