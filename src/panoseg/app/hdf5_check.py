"""HDF5 files, which NetCDF 4 is, that lead out of themselves: refused before a number of them is read.

A dataset may keep its numbers in any other file, raw; a link, or a virtual dataset, may name what lies in other HDF5 files. In
an upload these would be files of the server.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from panoseg.errors import AppError

if TYPE_CHECKING:
    import h5py

SIGNATURE = b"\x89HDF\r\n\x1a\n"


def check_contained(path: Path) -> None:
    """Raise ``AppError`` for an HDF5 file that names others, or whose parts cannot be listed; other formats pass."""
    import h5py

    with path.open("rb") as file:
        if file.read(len(SIGNATURE)) != SIGNATURE:
            return
    try:
        with h5py.File(path, "r") as root:
            leads_out = root.visititems_links(_other_file) or root.visititems(_numbers_elsewhere)
    except (OSError, RuntimeError, ValueError, KeyError, RecursionError) as error:
        raise AppError("an upload whose parts cannot be listed", "a complete NetCDF file", "write it again") from error
    if leads_out:
        raise AppError(f"an upload whose {leads_out} names another file", "a NetCDF file on its own", "copy it with nccopy")


def _other_file(name: str, link: h5py.HardLink | h5py.SoftLink | h5py.ExternalLink) -> str | None:
    import h5py

    return f"link {name[:80]!r}" if isinstance(link, h5py.ExternalLink) else None


def _numbers_elsewhere(name: str, part: h5py.Group | h5py.Dataset | h5py.Datatype) -> str | None:
    import h5py

    elsewhere = isinstance(part, h5py.Dataset) and (part.external or part.is_virtual)
    return f"variable {name[:80]!r}" if elsewhere else None
