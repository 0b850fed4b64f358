"""What happens to an Instance next."""
