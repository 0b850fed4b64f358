"""The research door: describe files, compare the answers with labels."""
