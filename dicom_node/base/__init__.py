"""What both programs use; imports nothing else of the project."""
