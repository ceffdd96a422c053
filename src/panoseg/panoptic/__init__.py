"""The result type of every model, merging of masks, joining of tiles, drawing."""
