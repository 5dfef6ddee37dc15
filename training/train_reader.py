"""`fmri-lm train reader` as a script, for `accelerate launch`; see `fmri_lm_hf.training.reader`."""

from fmri_lm_hf.training.reader import main

if __name__ == "__main__":
    main()
