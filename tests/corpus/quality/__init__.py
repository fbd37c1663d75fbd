"""Tests of language, toxicity, learned quality, cleaning and privacy."""
