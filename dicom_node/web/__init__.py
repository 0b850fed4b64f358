"""What the node answers over HTTP."""
