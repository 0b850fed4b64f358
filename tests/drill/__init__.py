"""Fault injection on real processes: what the node acknowledged must arrive, once."""
