"""The pipeline: one definition, a plan of work units, files between stages."""
