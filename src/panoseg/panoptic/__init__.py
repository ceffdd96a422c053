"""The result type, merging of masks, joining of tiles."""
