"""`fmri-lm train instruction` as a script, for `accelerate launch`; see `fmri_lm_hf.training.instruction`."""

from fmri_lm_hf.training.instruction import main

if __name__ == "__main__":
    main()
