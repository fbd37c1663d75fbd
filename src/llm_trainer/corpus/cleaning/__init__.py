"""Cleaners: they repair a text or take parts out of it, before it is tagged."""
