"""Sources of the pipeline: each kind of file as documents, with what it lost on the way."""
