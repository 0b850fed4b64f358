"""The demonstration model: drawn chest phantoms and a small model that reads them."""
