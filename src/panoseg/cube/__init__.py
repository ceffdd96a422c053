"""Scenes and a grid become a cube; its conventions are checked here."""
