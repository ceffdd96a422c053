"""Photographs of anyone's become panoptic pictures, overlays with names, and a table of
segments.
"""
