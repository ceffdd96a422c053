"""Photographs become panoptic segmentations, overlays with names, and a table of segments."""
