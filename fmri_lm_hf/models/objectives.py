"""Losses of tokenizer training, in addition to reconstruction: text alignment, connectivity and co-skewness."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_fmri_tokenizer import FmriTokenizerConfig
from .fmri_transformer import unit_series

LEAST_VARIANCE = 0.1  # of texts in any direction, relative to the mean over directions


def connectivity_loss(reconstruction: Tensor, input_values: Tensor, roi_mask: Tensor, padding_mask: Tensor) -> Tensor:
    """Compute the mean squared difference of the Pearson correlations of a reconstructed scan and its own.

    Parameters
    ----------
    reconstruction, input_values : torch.Tensor of shape (batch, n_rois, n_timepoints)
    roi_mask : torch.BoolTensor of shape (batch, n_rois)
    padding_mask : torch.BoolTensor of shape (batch, n_timepoints)

    Returns
    -------
    torch.Tensor of shape ()
        Over the pairs of different observed ROIs; zero where no scan has two.
    """
    rebuilt, expected = (unit_series(series, padding_mask) for series in (reconstruction, input_values))
    difference = rebuilt @ rebuilt.transpose(1, 2) - expected @ expected.transpose(1, 2)
    return _mean_over_pairs(difference.square(), roi_mask)


def coskewness_loss(reconstruction: Tensor, input_values: Tensor, roi_mask: Tensor, padding_mask: Tensor) -> Tensor:
    """Compute the mean squared difference of the co-skewness of a reconstructed scan and its own.

    Reconstruction keeps second moments far better than third ones (arXiv 2606.04010). Of the third moments of
    standardised series z the slice ``mean_t(z_i^2 z_j)`` is compared, for different observed ROIs i and j.
    Parameters are those of `connectivity_loss`.
    """
    # `unit_series` have length 1; times the root of the number of points they have standard deviation 1
    n_observed = padding_mask.sum(-1).to(input_values.dtype)[:, None, None]
    rebuilt, expected = (
        unit_series(series, padding_mask) * n_observed.sqrt() for series in (reconstruction, input_values)
    )
    difference = rebuilt.square() @ rebuilt.transpose(1, 2) - expected.square() @ expected.transpose(1, 2)
    return _mean_over_pairs((difference / n_observed).square(), roi_mask)


def mean_over_scans(values: Tensor, observed: Tensor) -> Tensor:
    """Average over scans the mean of each scan over observed values; both (batch, ...).

    Not a mean over all observed values at once: a scan of many ROIs would count more, and the loss of a step would
    depend on how it is divided. This way it is the mean of its micro-batches, each weighted by its number of scans.
    """
    of_scans = values.masked_fill(~observed, 0).flatten(1).sum(1) / observed.flatten(1).sum(1).clamp_min(1)
    return of_scans.mean()


def _mean_over_pairs(values: Tensor, roi_mask: Tensor) -> Tensor:
    """Mean of (batch, n_rois, n_rois) over pairs of different observed ROIs, and over scans."""
    pairs = roi_mask[:, :, None] & roi_mask[:, None, :]
    pairs = pairs & ~torch.eye(roi_mask.shape[1], dtype=torch.bool, device=roi_mask.device)
    return mean_over_scans(values, pairs)


def contrastive_loss(logits: Tensor, kind: str, similarity: Tensor, temperature: float) -> Tensor:
    """Compute the loss of scans against texts: text n describes scan n, further texts describe no scan.

    Parameters
    ----------
    logits : torch.Tensor of shape (n, n_texts)
        Of each scan against each text.
    kind : {"clip", "soft_clip", "siglip", "soft_siglip"}
        Softmax over all texts and over all scans (arXiv 2103.00020), or each pair by itself, summed over texts (arXiv
        2303.15343). In the soft forms a text that is similar to the right one is partly right.
    similarity : torch.Tensor of shape (n, n_texts)
        Cosine similarities of the descriptions of two scans.
    temperature : float
        Targets of the soft forms are ``exp((similarity - 1) / temperature)``, for "soft_clip" as shares.
    """
    targets = torch.eye(*logits.shape, device=logits.device, dtype=logits.dtype)
    if kind.startswith("soft_"):
        # the right text stays quite right, whatever rounding makes of its similarity to itself
        targets = ((similarity - 1) / temperature).exp().fill_diagonal_(1).to(logits.dtype)
    if kind.endswith("siglip"):
        # summed over texts, not a mean: with more texts each scan has more wrong ones, and one right one all the same
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(-1).mean()
    # Softmax both ways. Texts beyond the scans have no column of their own to be right in, so they only count as wrong
    # answers of the scans.
    n = len(logits)
    both = ((logits, targets), (logits[:, :n].T, targets[:, :n].T))
    return sum(F.cross_entropy(values, target / target.sum(-1, keepdim=True)) for values, target in both) / 2


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, scale):
        ctx.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.scale * gradient, None


def domain_ramp(step: int, n_steps: int) -> float:
    """Scale the reversed gradient, from 0 to 1 in a sigmoid over `n_steps` (arXiv 1505.07818); 1 without a ramp."""
    return 2 / (1 + math.exp(-10 * min(1.0, step / n_steps))) - 1 if n_steps else 1.0


class TokenPooling(nn.Module):
    """One vector for a scan: the mean of its tokens, their weighted mean, or a token that sees them."""

    def __init__(self, config: FmriTokenizerConfig):
        super().__init__()
        self.cls_token = nn.Embedding(1, config.hidden_size) if config.pooling == "cls" else None
        self.score = nn.Linear(config.hidden_size, 1) if config.pooling == "attention" else None

    def observer(self, device: torch.device) -> Tensor | None:
        """Return the token (1, hidden_size) that sees all others in the encoder, and that none of them sees."""
        if self.cls_token is None:
            return None
        return self.cls_token(torch.zeros(1, dtype=torch.long, device=device))

    def forward(self, embeddings: Tensor, token_mask: Tensor, observed: Tensor | None) -> Tensor:
        """Vectors (batch, hidden_size) of tokens (batch, n_tokens, hidden_size), or the encoded observer."""
        if observed is not None:
            return observed
        weights = token_mask.to(embeddings.dtype)
        if self.score is not None:
            # -inf is safe here: a scan has at least one observed token
            scores = self.score(embeddings).squeeze(-1).masked_fill(~token_mask, float("-inf"))
            weights = scores.softmax(-1)
        return (embeddings * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)


class TextAlignment(nn.Module):
    """Losses that bring scan embeddings to the frozen text embeddings of the scans' descriptions.

    Contrastive: each scan against every text, those of the batch and others that are given, with a learnt
    temperature. Domain-adversarial (arXiv 1505.07818): a classifier separates scans and texts, and reversed gradients
    train the encoder to make them indistinguishable.
    """

    def __init__(self, config: FmriTokenizerConfig):
        super().__init__()
        self.kind, self.temperature = config.contrastive_loss, config.soft_target_temperature
        self.pooling = TokenPooling(config)
        # a text names, for example, the pair that differs most: no linear function of all pairs of a scan
        self.refinement = nn.Sequential(
            nn.Linear(config.hidden_size, 2 * config.hidden_size),
            nn.GELU(),
            nn.Linear(2 * config.hidden_size, config.hidden_size),
        )
        self.projection = nn.Linear(config.hidden_size, config.text_embed_dim)
        self.domain_classifier = nn.Sequential(
            nn.Linear(config.text_embed_dim, config.hidden_size), nn.GELU(), nn.Linear(config.hidden_size, 1)
        )
        # of one dimension: FSDP2 shards no scalar
        self.logit_scale = nn.Parameter(torch.empty(1))
        self.logit_bias = nn.Parameter(torch.empty(1)) if "siglip" in self.kind else None
        self.register_buffer("text_mean", torch.zeros(config.text_embed_dim))
        self.register_buffer("text_whitening", torch.eye(config.text_embed_dim))

    def init_weights(self) -> None:
        """Set the initial temperature and bias of SigLIP, or the temperature of CLIP; no refinement, no whitening."""
        for parameter in self.refinement[-1].parameters():
            init.zeros_(parameter)
        init.zeros_(self.text_mean)
        init.eye_(self.text_whitening)
        if self.logit_bias is None:
            init.constant_(self.logit_scale, math.log(1 / 0.07))
        else:
            init.constant_(self.logit_scale, math.log(10))
            init.constant_(self.logit_bias, -10.0)

    @torch.no_grad()
    def fit_texts(self, text_embeds: Tensor) -> None:
        """Whiten all texts from now on by the mean and covariance of training texts (n_texts, text_embed_dim).

        Most of a raw embedding is shared by all descriptions and says nothing about a scan: embeddings of different
        scans have cosines near 1, and a contrastive loss against them learns one vector. Most of the rest is wording;
        scaled by the variance of each direction, the content counts as much. `LEAST_VARIANCE` of the mean variance is
        added to every direction, so that directions in which training texts hardly differ do not dominate.
        """
        centred = text_embeds.double() - text_embeds.double().mean(0)
        covariance = centred.T @ centred / len(centred)
        least = LEAST_VARIANCE * covariance.diagonal().mean().clamp_min(1e-12)
        variances, directions = torch.linalg.eigh(covariance)
        scales = (variances.clamp_min(0) + least).rsqrt()
        self.text_mean.copy_(text_embeds.mean(0))
        self.text_whitening.copy_(directions * scales @ directions.T)

    def scans(self, features: Tensor) -> Tensor:
        """Unit vectors (..., text_embed_dim) of scans' features (..., hidden_size)."""
        return F.normalize(self.projection(features + self.refinement(features)), dim=-1)

    def texts(self, text_embeds: Tensor) -> Tensor:
        """Whiten text embeddings (n_texts, text_embed_dim) and scale them to unit vectors."""
        centred = text_embeds.detach().float() - self.text_mean.float()
        whitened = centred @ self.text_whitening.float()
        return F.normalize(whitened.to(self.projection.weight.dtype), dim=-1)

    def logits(self, scans: Tensor, texts: Tensor) -> Tensor:
        """Compute logits of unit vectors of scans and of texts: (n_scans, n_texts)."""
        logits = scans @ texts.T * self.logit_scale.exp()
        return logits if self.logit_bias is None else logits + self.logit_bias

    def contrastive(
        self,
        pooled: Tensor,
        text_embeds: Tensor,
        descriptors: Tensor | None = None,
        other_text_embeds: Tensor | None = None,
        other_descriptors: Tensor | None = None,
    ) -> Tensor:
        """Compute the contrastive loss of scans (batch, hidden_size) and texts (batch, text_embed_dim).

        `other_text_embeds` (n_others, text_embed_dim) describe none of the scans. The soft forms compare the
        `descriptors` (batch, n_descriptors) of the scans if they are given (with those of the other texts), else the
        texts. The scans of the other texts are not here: "clip" and "soft_clip" compare texts with the scans of this
        batch alone.
        """
        own = self.texts(text_embeds)
        texts = own if other_text_embeds is None else torch.cat([own, self.texts(other_text_embeds)])
        described_by = texts
        if descriptors is not None:
            all_descriptors = [descriptors] if other_descriptors is None else [descriptors, other_descriptors]
            described_by = F.normalize(torch.cat(all_descriptors).float(), dim=-1)
        similarity = described_by[: len(own)] @ described_by.T
        return contrastive_loss(self.logits(self.scans(pooled), texts), self.kind, similarity, self.temperature)

    def domain(self, scans: Tensor, texts: Tensor, ramp: float = 1.0) -> Tensor:
        """Compute the loss of the classifier of scans and texts, equally weighted; the gradient of scans is reversed.

        Parameters
        ----------
        scans : torch.Tensor of shape (n_scan_vectors, text_embed_dim)
        texts : torch.Tensor of shape (n_text_vectors, text_embed_dim)
        ramp : float
            Size of the reversed gradient.
        """
        logits = [self.domain_classifier(vectors) for vectors in (_ReverseGradient.apply(scans, ramp), texts)]
        parts = [
            F.binary_cross_entropy_with_logits(values, torch.full_like(values, is_scan))
            for values, is_scan in zip(logits, (1.0, 0.0))
        ]
        return sum(parts) / 2
