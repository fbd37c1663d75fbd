"""Whole jobs, each one function: what the command line, the scripts and the examples call."""
