"""Runs the node: its roles as supervised processes, and their reload."""
