"""`python -m fmri_lm_hf.cli`."""

import sys

from . import main

sys.exit(main())
