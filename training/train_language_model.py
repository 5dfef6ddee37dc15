"""`fmri-lm train language-model` as a script, for `accelerate launch`; see `fmri_lm_hf.training.language_model`."""

from fmri_lm_hf.training.language_model import main

if __name__ == "__main__":
    main()
