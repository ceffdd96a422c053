"""A cube becomes parcels: tiles, prediction, joining, polygons, files."""
