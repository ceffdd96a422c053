"""One training loop, its experiments, checkpoints and evaluation."""
