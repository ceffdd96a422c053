"""``python -m panoseg`` is the ``panoseg`` command."""

from panoseg.cli import script

script()
