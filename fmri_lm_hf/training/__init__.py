"""Training: arguments, examples, features of frozen models, the Trainer, one module for each stage."""
