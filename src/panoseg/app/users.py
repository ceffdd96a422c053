"""The users of a server: a file with one line per token, of the user's name and its SHA-256.

The tokens themselves are stored nowhere.
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
"""The user of every request where nobody signs in."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._@-]{0,62}) ([0-9a-f]{64})")


class Users:
    """The users of a server.

    The file is read again when it changes, so that users who are removed lose access at once.

    Args:
        path: The file; None if nobody signs in.

    Raises:
        ConfigError: The file is missing, empty, or damaged.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._names: dict[str, str] = {}
        if path is not None and not self._current(path):
            raise ConfigError(
                f"{path} contains no users. Add one with panoseg app token NAME --tokens {path}"
            )

    @property
    def sign_in(self) -> bool:
        """Whether users must sign in."""
        return self.path is not None

    def user_of(self, token: str | None) -> str:
        """Return the name of the user with this token.

        Raises:
            NotSignedInError: The token is missing or unknown.
            BusyError: The file of users cannot be read at the moment.
        """
        if self.path is None:
            return LOCAL_USER
        try:
            names = self._current(self.path)
        except ConfigError as error:
            # An operator may be editing the file; the message must not name the server's files.
            LOG.error("the file of users cannot be used", extra={"reason": str(error)})
            raise BusyError(
                "Users cannot be looked up at the moment; try again soon, or tell the operator of"
                " this server."
            ) from error
        # Looked up by its digest, so that the time it takes reveals nothing about valid tokens.
        name = None if not token else names.get(_digest(token))
        if name is None:
            raise NotSignedInError(
                "No valid token was given. Sign in, or send the header Authorization: Bearer TOKEN"
            )
        return name

    def _current(self, path: Path) -> dict[str, str]:
        """Return the users by the digests of their tokens, read again if the file has changed."""
        try:
            stat = path.stat()
            stamp = stat.st_mtime_ns, stat.st_size
            with self._lock:
                if stamp != self._stamp:
                    self._names, self._stamp = read_users(path), stamp
                return self._names
        except OSError as error:
            raise ConfigError(
                f"The file of users {path} cannot be read ({error.strerror}); restore it."
            ) from error


def read_users(path: Path) -> dict[str, str]:
    """Return the names of the users by the digests of their tokens.

    Raises:
        ConfigError: A line is not a name and a SHA-256.
        OSError: The file cannot be read.
    """
    names: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            match = _LINE.fullmatch(line.strip())
            if match is None:
                raise ConfigError(
                    f"Line {number} of {path} is not a name and a SHA-256. Remove it, and add users"
                    " with panoseg app token NAME."
                )
            names[match[2]] = match[1]
    return names


def add_user(path: Path, name: str) -> str:
    """Add a user, or another token of an existing one, to the file and return the token.

    Raises:
        ConfigError: The name is not valid, or the file is damaged.
        OutputError: The file cannot be written.
    """
    if not _NAME.fullmatch(name) or name == LOCAL_USER:
        raise ConfigError(
            f"{name!r} cannot be the name of a user; use up to 63 letters, digits and . _ @ - and"
            f" not {LOCAL_USER!r}."
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
