"""Turns a radiograph Instance into a report Instance. No association, no database."""

__version__ = "0.1.0"
