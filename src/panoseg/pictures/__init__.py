"""Figures, drawn from plain arrays, segmentations and scores; all uses of matplotlib."""
