"""Training: one module for each stage; options, examples, cached features and Trainers, which the stages share."""
