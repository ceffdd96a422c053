"""The published network for photographs: where torchvision would look for it, and what is said of
it before it is needed.
"""

from __future__ import annotations

import httpx
import pytest

from panoseg.app.pages import photo as published


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch, tmp_path):
    published._reachable.cache_clear()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


def answering(monkeypatch, answer: httpx.Response | Exception) -> list[str]:
    """Let every address answer so; gives the addresses that were asked."""
    asked = []

    def head(url: str, **options: object) -> httpx.Response:
        asked.append(url)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(httpx, "head", head)
    return asked


def test_it_is_where_torchvision_keeps_it(monkeypatch, tmp_path):
    import torch
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    assert MaskRCNN_ResNet50_FPN_Weights.COCO_V1.url == published.URL
    for home, cache in (
        (str(tmp_path), ""),
        ("", str(tmp_path / "cache")),
        ("", ""),
        ("~/torch", ""),
    ):
        for name, value in (("TORCH_HOME", home), ("XDG_CACHE_HOME", cache)):
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
        assert str(published.checkpoints().parent) == torch.hub.get_dir()


def test_what_is_here_is_asked_of_nobody(monkeypatch, tmp_path):
    asked = answering(monkeypatch, httpx.ConnectError("no network"))
    path = tmp_path / "hub" / "checkpoints" / published.URL.rsplit("/", 1)[-1]
    path.parent.mkdir(parents=True)
    path.touch()
    assert published.find_published() == published.Published(path, cached=True, available=True)
    assert asked == []


@pytest.mark.parametrize(
    ("answer", "reachable"),
    [
        (httpx.Response(200), True),
        (httpx.Response(403), False),
        (httpx.ConnectError("no network"), False),
    ],
)
def test_what_is_not_here_is_asked_for_once_a_minute(monkeypatch, answer, reachable):
    asked = answering(monkeypatch, answer)
    monkeypatch.setattr(published.time, "monotonic", lambda: 30.0)
    for _ in range(2):
        found = published.find_published()
        assert (found.cached, found.available) == (False, reachable)
    assert asked == [published.URL]
    monkeypatch.setattr(published.time, "monotonic", lambda: 90.0)
    published.find_published()
    assert len(asked) == 2
