"""One file a model, named as in its paper; shared layers next to them."""
