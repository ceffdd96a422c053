"""Panoptic quality and confusion-matrix metrics, each published definition under its name."""
