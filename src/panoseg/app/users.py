"""Who is who: a file of users, a line each with a name and the SHA-256 of a token. Tokens
themselves are kept nowhere.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import threading
from pathlib import Path

from panoseg.errors import BusyError, ConfigError, NotSignedInError
from panoseg.files import output_error, write_text

LOG = logging.getLogger("panoseg.app.users")
LOCAL_USER = "local"
"""Who everybody is where nobody signs in."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._@-]{0,62}) ([0-9a-f]{64})")


class Users:
    """The users of a server; the file is read again whenever it changes, so that whoever is taken
    out is out at once.
    """

    def __init__(self, path: Path | None) -> None:
        """path: None where nobody signs in. Raises ``ConfigError`` for a file that is missing,
        empty or no such file.
        """
        self.path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._names: dict[str, str] = {}
        if path is not None and not self._current():
            raise ConfigError(
                f"{path} names no user",
                "one at least",
                f"run panoseg app token NAME --tokens {path}",
            )

    @property
    def sign_in(self) -> bool:
        """Whether people sign in."""
        return self.path is not None

    def user_of(self, token: str | None) -> str:
        """The user with this token. Raises ``NotSignedInError``, ``BusyError`` where the file of
        users is of no use.
        """
        if self.path is None:
            return LOCAL_USER
        try:
            names = self._current()
        except (
            ConfigError
        ) as error:  # while an operator edits it; who asks learns nothing of the server's files
            LOG.error("the file of users is of no use", extra={"reason": str(error)})
            raise BusyError(
                "users cannot be looked up at present",
                "their file",
                "tell whoever runs this server",
            ) from error
        # Looked up by its digest, the time of which tells nothing about the token.
        name = None if not token else names.get(_digest(token))
        if name is None:
            raise NotSignedInError(
                "no valid token", "one, as Authorization: Bearer TOKEN or by signing in", "sign in"
            )
        return name

    def _current(self) -> dict[str, str]:
        assert self.path is not None
        try:
            stat = self.path.stat()
            stamp = stat.st_mtime_ns, stat.st_size
            with self._lock:
                if stamp != self._stamp:
                    self._names, self._stamp = read_users(self.path), stamp
                return self._names
        except OSError as error:
            raise ConfigError(
                f"{self.path} cannot be read ({error.strerror})", "a file of users", "restore it"
            ) from error


def read_users(path: Path) -> dict[str, str]:
    """Digest of a token -> name of its user. Raises ``ConfigError`` for a line that is none,
    ``OSError``.
    """
    names: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            match = _LINE.fullmatch(line.strip())
            if match is None:
                raise ConfigError(
                    f"line {number} of {path}",
                    "a name and a SHA-256",
                    "add users by panoseg app token NAME",
                )
            names[match[2]] = match[1]
    return names


def add_user(path: Path, name: str) -> str:
    """Add a user, or a further token of one, to the file; returns the token. Raises
    ``ConfigError``, ``OutputError``.
    """
    if not _NAME.fullmatch(name) or name == LOCAL_USER:
        raise ConfigError(
            f"the name {name!r}", "letters, digits and . _ @ -, at most 63", "choose another"
        )
    token = secrets.token_urlsafe(32)
    try:
        if path.exists():
            read_users(path)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        write_text(path, "\n".join([*lines, f"{name} {_digest(token)}"]) + "\n")
        path.chmod(0o600)
    except OSError as error:
        raise output_error(path, error) from error
    return token


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
