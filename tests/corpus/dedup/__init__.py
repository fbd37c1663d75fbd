"""Duplicates and benchmark items: what goes, what stays, and that it is the same everywhere."""
