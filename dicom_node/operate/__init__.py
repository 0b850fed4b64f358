"""What an operator runs beside the node."""
