"""Which seeds draw phantoms for people, and which for training: never the same."""

RESERVED = range(1_000_000)
"""Seeds of phantoms that are shown, sent and evaluated; training refuses them."""

TRAINING = range(1_000_000, 2_000_000)
"""Seeds that training may draw from; evaluation refuses them."""
