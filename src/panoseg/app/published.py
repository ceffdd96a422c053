"""Whether the published network for photographs is on this machine, or could be fetched: what a page says before anybody waits.

PyTorch itself is not loaded for that: the server has no other need of it.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

PUBLISHED = "coco"
"""The name under which the network is offered."""
URL = "https://download.pytorch.org/models/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
_PATIENCE_S = 5.0
_REMEMBERED_S = 60


@dataclass(frozen=True)
class Published:
    """Where the network would be. here: whether it is. reachable: whether it can be fetched; True for one that is here."""

    path: Path
    here: bool
    reachable: bool


def find_published() -> Published:
    """Look for the network; asks for its address where it is not here, and waits some seconds for an answer."""
    path = checkpoints() / URL.rsplit("/", 1)[-1]
    here = path.is_file()
    return Published(path, here, here or _reachable(int(time.monotonic() / _REMEMBERED_S)))


def checkpoints() -> Path:
    """The folder in which PyTorch keeps what it has fetched, as ``torch.hub.get_dir`` says."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    return Path(os.environ.get("TORCH_HOME") or cache).expanduser() / "hub" / "checkpoints"


@lru_cache(1)
def _reachable(minute: int) -> bool:
    """Whether the address answers; asked once a minute, whoever looks at the page."""
    import httpx

    try:
        return httpx.head(URL, timeout=_PATIENCE_S, follow_redirects=True).is_success
    except httpx.HTTPError:
        return False
