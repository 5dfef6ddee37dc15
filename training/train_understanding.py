"""`fmri-lm train understanding` as a script, for `accelerate launch`; see `fmri_lm_hf.training.understanding`."""

from fmri_lm_hf.training.understanding import main

if __name__ == "__main__":
    main()
