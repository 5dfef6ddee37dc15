"""Training: a module for each stage, and what the stages share: options, examples, cached features and Trainers."""
