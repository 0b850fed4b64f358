"""From the stored bytes of an Instance to the picture that a model sees."""
