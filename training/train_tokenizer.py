"""`fmri-lm train tokenizer` as a script, for `accelerate launch`; see `fmri_lm_hf.training.tokenizer`."""

from fmri_lm_hf.training.tokenizer import main

if __name__ == "__main__":
    main()
