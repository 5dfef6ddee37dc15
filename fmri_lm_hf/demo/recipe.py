"""The sizes of the demo: small enough for two cores, large enough to learn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Sizes and schedules of the demo's models.

    Attributes
    ----------
    input_features : tuple of {"signal", "connectivity"}
        What a scan token sees; with "signal" alone, as published, the demo's cohort is too small to learn from.
    read_codes : bool
        Let the language model read the sum of the code vectors instead of the continuous features.
    t_r : float
        Repetition time of the model's input, in seconds.
    max_timepoints : int
        Longest input; shorter cohorts use the length of their longest scan.
    hidden_size, num_encoder_layers : int
        Of the fMRI tokenizer.
    codebook_size, codebook_dim, num_quantizers : int
    lm_hidden_size, lm_num_layers : int
        Of the Llama-like language model.
    vocab_size : int
        Largest size of the subword vocabulary.
    text_epochs, tokenizer_epochs, alignment_epochs, instruction_epochs : int
    batch_size : int
    learning_rate : float
    n_windows : int
        Random windows in time of each training scan that the language model meets beside the whole scan.
    shortest_window : float
        Least share of the scan in a window.
    token_dropout : float
        Largest share of a scan's ROIs that are hidden from the language model while it trains.
    seed : int
    """

    input_features: tuple[str, ...] = ("connectivity",)
    read_codes: bool = False
    t_r: float = 2.0
    max_timepoints: int = 480
    hidden_size: int = 128
    num_encoder_layers: int = 1
    codebook_size: int = 512
    codebook_dim: int = 32
    num_quantizers: int = 4
    lm_hidden_size: int = 128
    lm_num_layers: int = 2
    vocab_size: int = 800
    text_epochs: int = 1
    tokenizer_epochs: int = 5
    alignment_epochs: int = 2
    instruction_epochs: int = 12
    batch_size: int = 32
    learning_rate: float = 2e-3
    n_windows: int = 5
    shortest_window: float = 0.4
    token_dropout: float = 0.5
    seed: int = 0
    initializer_range: float = 0.08  # about hidden_size ** -0.5: small models start to attend sooner
