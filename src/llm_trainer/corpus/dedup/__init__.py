"""Duplicates: exact, near and in parts; and what must not be trained on because a benchmark asks it."""
