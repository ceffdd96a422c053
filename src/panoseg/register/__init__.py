"""A register of parcels and seasons of images become training data."""
