"""Panoptic segmentation of satellite image time series and photographs."""

__version__ = "0.1.0"
