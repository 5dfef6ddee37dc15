"""`fmri-lm train reading` as a script, for `accelerate launch`; see `fmri_lm_hf.training.reading`."""

from fmri_lm_hf.training.reading import main

if __name__ == "__main__":
    main()
