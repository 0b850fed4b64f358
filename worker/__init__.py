"""Turns a radiograph Instance into a report Instance. No association, no database."""
