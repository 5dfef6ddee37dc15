"""`fmri-lm train alignment` as a script, for `accelerate launch`; see `fmri_lm_hf.training.alignment`."""

from fmri_lm_hf.training.alignment import main

if __name__ == "__main__":
    main()
