"""Language models that read fMRI scans, native to the Hugging Face ecosystem.

Importing the package registers its classes with the Auto classes of transformers.
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from .__about__ import __version__
from .configuration_fmri_lm import FmriLMConfig
from .configuration_fmri_tokenizer import FmriTokenizerConfig
from .modeling_fmri_lm import FmriLMForCausalLM
from .modeling_fmri_tokenizer import FmriTokenizer

AutoConfig.register("fmri_tokenizer", FmriTokenizerConfig, exist_ok=True)
AutoConfig.register("fmri_lm", FmriLMConfig, exist_ok=True)
AutoModel.register(FmriTokenizerConfig, FmriTokenizer, exist_ok=True)
AutoModel.register(FmriLMConfig, FmriLMForCausalLM, exist_ok=True)
AutoModelForCausalLM.register(FmriLMConfig, FmriLMForCausalLM, exist_ok=True)

__all__ = ["FmriLMConfig", "FmriLMForCausalLM", "FmriTokenizer", "FmriTokenizerConfig", "__version__"]
