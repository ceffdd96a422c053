"""Cubes: open, check and make them; choose the season and read the windows of a network."""
