"""Options of every network, one file a network, as frozen dataclasses without torch, so that
``--help`` stays quick.
"""
