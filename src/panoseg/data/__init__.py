"""Cubes and datasets on disk become samples and batches."""
