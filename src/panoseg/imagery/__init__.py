"""Find and read Sentinel-2 imagery: catalogues, scenes, archives, outlines of areas."""
