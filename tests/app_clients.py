"""The web application in the process of the tests, without workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from panoseg.app.server import build_app
from panoseg.app.service import Service
from panoseg.app.settings import AppSettings
from panoseg.app.users import Users, add_user


class LocalServer:
    """A server without workers, and a client of each user; without users nobody signs in."""

    def __init__(self, folder: Path, users: tuple[str, ...] = (), **settings: Any) -> None:
        tokens = folder / "users" if users else None
        self.tokens = {user: add_user(folder / "users", user) for user in users}
        self.settings = AppSettings(folder / "app", tokens=tokens, workers=0, **settings)
        self.service = Service(self.settings)
        self.app = build_app(self.service, Users(tokens))

    def client(self, user: str | None = None, **options: Any) -> TestClient:
        """A client that is signed in as a user, or not at all; options: of ``TestClient``."""
        headers = {"authorization": f"Bearer {self.tokens[user]}"} if user else {}
        return TestClient(self.app, base_url="http://127.0.0.1:8080", headers=headers, **options)

    def finish(self, id: str, files: dict[str, str]) -> None:
        """What a worker would do."""
        claim = self.service.all_jobs.claim("w")
        assert claim is not None
        assert claim.job == id
        for name, text in files.items():
            path = self.settings.jobs_folder / id / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        self.service.all_jobs.finish(claim, 10, 1.0, "done")
