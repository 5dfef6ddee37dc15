"""The `fmri-lm` sub-commands, one module each: `SUMMARY`, `add_arguments(parser)`, `run(args) -> int | None`."""
