"""Weights of feature extractors by path or address: fetched once, verified, kept in the cache."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

from limner.errors import LimnerError
from limner.features.weights_file import check_sha256, file_sha256, refuse_malformed
from limner.ports import ObjectStore

TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class WeightsCache:
    """Port `Fetch`: files from http(s):// and s3:// addresses, kept in a folder by the digest of their address."""

    folder: Path
    open_store: Callable[[str], ObjectStore]

    def __call__(self, address: str, *, sha256: str) -> Path:
        """The file of that SHA-256, or of one that begins so; a path is returned as it is.

        Raises LimnerError where it cannot be had, is another one, or an address comes without a SHA-256.
        """
        if "://" not in address:
            path = Path(address)
            if sha256 and path.is_file():  # whoever reads it says in better words what is missing
                check_sha256(path, sha256)
            return path
        shown = _without_secrets(address)
        if not sha256:
            raise LimnerError(
                f"The weights at {shown} are given without their SHA-256.",
                why="What lies at an address can change, and the metrics with it.",
                fix="State the SHA-256; its first 8 digits are enough.",
            )
        refuse_malformed(sha256)
        path = self.folder / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}-{_file_name(address)}"
        if not path.is_file() or not file_sha256(path).startswith(sha256.lower()):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise LimnerError(
                    f"There is no room for weights at {self.folder}.",
                    why=str(error),
                    fix="Name another folder with LIMNER_CACHE, or a file that lies on this machine.",
                ) from error
            with tempfile.TemporaryDirectory(prefix=".weights-", dir=self.folder) as temporary:
                partial = Path(temporary) / path.name
                self._fetch(address, partial, shown=shown)
                check_sha256(partial, sha256, shown=shown)
                partial.replace(path)
        return path

    def _fetch(self, address: str, path: Path, *, shown: str) -> None:
        parts = urlsplit(address)
        if parts.scheme == "s3":
            folder, _, key = parts.path.rpartition("/")
            self.open_store(f"s3://{parts.netloc}{folder}").get(key, path)
        elif parts.scheme in ("http", "https") and not parts.username:
            _download(address, path, shown=shown)
        else:
            raise LimnerError(
                f"Weights cannot be fetched from {shown}.",
                why="An address begins with https://, http:// or s3://, and has no user in it.",
                fix="Fetch the file yourself and name its path.",
            )


def _download(address: str, path: Path, *, shown: str) -> None:
    request = urllib.request.Request(address, headers={"User-Agent": "limner"})  # noqa: S310 - the caller looked
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer, path.open("wb") as file:  # noqa: S310
            shutil.copyfileobj(answer, file)
            promised = int(answer.headers.get("Content-Length") or file.tell())
            found = file.tell()
    except HTTPError as error:
        error.close()
        raise _failure(shown, f"The server answers {error.code} {error.reason}.") from None
    except (OSError, HTTPException, ValueError) as error:  # the cause is left out: it may hold the address
        raise _failure(shown, f"{type(error).__name__}: {str(error).replace(address, shown)}") from None
    if found != promised:
        raise _failure(shown, f"The transfer broke off after {found} of {promised} bytes.")


def _failure(shown: str, why: str) -> LimnerError:
    return LimnerError(
        f"The weights at {shown} cannot be fetched.",
        why=why,
        fix="Try again, correct the address, or fetch the file yourself and name its path.",
    )


def _without_secrets(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _file_name(address: str) -> str:
    return re.sub(r"[^\w.-]", "_", urlsplit(address).path.rpartition("/")[2])[-80:]
