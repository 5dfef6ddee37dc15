"""Model and dataset cards: templates, filled with what was measured."""
