"""Make training data from a register of parcels and seasons of images."""
