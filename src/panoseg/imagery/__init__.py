"""Find and read pixels: scenes on disk, Sentinel-2 rules."""
