"""Filters: what a document is tagged with, and the rules that decide on the tags."""
