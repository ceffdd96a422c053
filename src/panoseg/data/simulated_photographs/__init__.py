"""Simulated photographs: things in front of stuff, with panoptic truth in COCO's form; for tests and a start without data."""
