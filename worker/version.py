"""The version of the worker, which is part of what reports say of their model."""

__version__ = "0.1.0"
