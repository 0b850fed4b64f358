"""From a model's words to findings."""
