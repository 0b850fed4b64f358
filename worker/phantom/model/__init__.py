"""The folder that transformers loads: remote code, tokenizer, configuration and weights."""
