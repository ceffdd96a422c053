"""Options of all networks, as frozen dataclasses without torch, so that ``--help`` stays quick."""
