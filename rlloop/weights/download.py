"""One file over HTTP: goes on where an earlier attempt was cut off, never waits without a deadline, tries a few times.

Life of a download: nothing -> part and part.json (what the server had when it began) -> complete part. Whether the part
is the right file is not decided here.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import requests

CHUNK = 1 << 16  # requests holds a chunk back until it is full, so an interruption loses one
MAX_WAIT_S = 30.0
ON_ITS_WAY = {408, 425, 429, 500, 502, 503, 504}  # worth another try
FINAL = (  # not worth another try
    requests.exceptions.SSLError,
    requests.exceptions.ProxyError,
    requests.exceptions.TooManyRedirects,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
)
Report = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Network:
    """How the network is used.

    Args:
        endpoint: the Hub or a mirror of it; None for the Hub's own address.
        is_offline: nothing is fetched at all.
        connect_s, read_s: deadlines for a connection, and for each read from it.
        tries: attempts in a row that bring nothing before giving up.
        backoff_s: wait after the first of them; doubles, at most 30 s.
    """

    endpoint: str | None = None
    is_offline: bool = False
    connect_s: float = 10.0
    read_s: float = 30.0
    tries: int = 4
    backoff_s: float = 0.5

    @classmethod
    def from_environment(cls) -> Network:
        """Reads HF_ENDPOINT and HF_HUB_OFFLINE."""
        offline = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
        endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/")
        return cls(endpoint or None, offline.upper() in {"1", "ON", "YES", "TRUE"})

    def wait(self, in_vain: int) -> None:
        """Before the next attempt, after so many that brought nothing."""
        time.sleep(min(self.backoff_s * 2 ** max(in_vain - 1, 0), MAX_WAIT_S))


@dataclass(frozen=True)
class Remote:
    """A file as a server offers it.

    Args:
        name: what messages and records call it; without secrets.
        headers: sent along; never shown.
        identity: names the content where it is known beforehand; else the server's ETag is used.
        stated: the checksum that the server states, "sha256:..." or "git:...".
    """

    url: str
    name: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    identity: str = ""
    num_bytes: int | None = None
    stated: str = ""


class Interrupted(Exception):
    """What another attempt may overcome."""


def download(remote: Remote, part: Path, network: Network, report: Report) -> str:
    """Completes `part`, going on from what is there if it belongs to the same content.

    Args:
        report: called with the bytes that are here, and all bytes if known.
    Returns:
        the server's ETag, or "".
    Raises:
        ValueError: the server refuses, is not there, or stalls; one line that says what to do. What came is kept.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    in_vain = 0
    while True:
        before = _size(part)
        try:
            return _attempt(remote, part, network, report)
        except Interrupted as error:
            in_vain = 0 if _size(part) > before else in_vain + 1
            if in_vain >= network.tries:
                raise ValueError(
                    f"{remote.name}: {error} ({in_vain} times in a row, {_size(part)} bytes are kept); "
                    "try again later, or `rlloop weights import` the file from elsewhere"
                ) from None
            network.wait(in_vain)


def _attempt(remote: Remote, part: Path, network: Network, report: Report) -> str:
    state = _State.of(remote, part)
    kept = _size(part) if state.resumes(remote) else 0
    if remote.num_bytes is not None and kept > remote.num_bytes:
        kept = 0
    if kept and kept == remote.num_bytes:
        return state.etag
    headers = {**remote.headers, "Accept-Encoding": "identity"}  # a compressed body could not be resumed
    if kept:
        headers["Range"] = f"bytes={kept}-"
        if not remote.identity:
            headers["If-Range"] = state.etag
    try:
        with requests.get(
            remote.url, headers=headers, stream=True, timeout=(network.connect_s, network.read_s)
        ) as response:
            return _receive(response, remote, part, kept, report)
    except FINAL as error:
        raise ValueError(f"{remote.name}: {type(error).__name__}; check the address, proxy and certificates") from None
    except requests.exceptions.RequestException as error:
        raise Interrupted(_reason(error, network)) from None


def _receive(response: requests.Response, remote: Remote, part: Path, kept: int, report: Report) -> str:
    """Writes the body of a response behind the `kept` bytes, or from the start where the server sends all."""
    if response.status_code == 416:
        total = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("Content-Range", ""))
        if kept and total and int(total[1]) == kept:
            return _State.of(remote, part).etag
        part.unlink(missing_ok=True)
        raise Interrupted("the server has no more bytes where the partial file ends; it is fetched anew")
    if response.status_code in ON_ITS_WAY:
        raise Interrupted(f"the server answers {response.status_code} {response.reason}")
    if response.status_code not in (200, 206):
        raise ValueError(f"{remote.name}: {refusal(response.status_code, response.reason)}")
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    etag, before = response.headers.get("ETag", ""), _State.of(remote, part).etag
    is_other = not remote.identity and etag != before
    if response.status_code == 206 and (is_other or span is None or int(span[1]) != kept):
        part.unlink(missing_ok=True)
        raise Interrupted("the server sent other bytes than those that are missing; it is fetched anew")
    if response.status_code == 200:
        kept = 0
    length = "" if "Content-Encoding" in response.headers else response.headers.get("Content-Length", "")
    total = kept + int(length) if length.isdigit() else remote.num_bytes
    if total is not None and remote.num_bytes not in (None, total):
        raise ValueError(
            f"{remote.name}: the server offers {total} bytes, expected {remote.num_bytes}; it is another file"
        )
    _State(remote.url, remote.identity, etag).write(part)
    with part.open("ab" if kept else "wb") as file:
        report(kept, total)
        for chunk in response.iter_content(CHUNK):
            kept += file.write(chunk)
            report(kept, total)
        file.flush()
        os.fsync(file.fileno())
    if total is not None and kept != total:
        raise Interrupted(f"the connection closed after {kept} of {total} bytes")
    return etag


@dataclass(frozen=True)
class _State:
    """What the server had when a part was begun."""

    url: str = ""
    identity: str = ""
    etag: str = ""

    @classmethod
    def of(cls, remote: Remote, part: Path) -> _State:
        try:
            return cls(**json.loads(_State.path(part).read_text()))
        except (OSError, ValueError, TypeError):
            return cls()

    @staticmethod
    def path(part: Path) -> Path:
        return part.with_name(part.name + ".json")

    def write(self, part: Path) -> None:
        _State.path(part).write_text(json.dumps(self.__dict__))

    def resumes(self, remote: Remote) -> bool:
        """Whether the part belongs to what is asked for now. A weak ETag does not name bytes."""
        same_bytes = self.identity or (self.etag and not self.etag.startswith("W/"))
        return bool(same_bytes) and (self.url, self.identity) == (remote.url, remote.identity)


def discard(part: Path) -> None:
    """Removes a part and what is known of it."""
    part.unlink(missing_ok=True)
    _State.path(part).unlink(missing_ok=True)


def refusal(status: int, reason: str) -> str:
    """What an answer that is no file means."""
    if status in (401, 403):
        return f"the server refuses access ({status} {reason}); get the file elsewhere and `rlloop weights import` it"
    if status in (404, 410):
        return f"there is no such file ({status} {reason}); get it elsewhere and `rlloop weights import` it"
    return f"the server answers {status} {reason}"


def without_secrets(url: str) -> str:
    """An address without user, password and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rsplit("@", 1)[-1], parts.path, "", ""))


def _reason(error: requests.exceptions.RequestException, network: Network) -> str:
    text = str(error)  # only looked at: it may carry a signed address
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return f"no connection within {network.connect_s:g} s"
    if isinstance(error, requests.exceptions.Timeout) or "Read timed out" in text:
        return f"the server sent nothing for {network.read_s:g} s"
    if "NameResolution" in text or "getaddrinfo" in text:
        return "its address cannot be resolved: is there a network?"
    if "refused" in text:
        return "the connection was refused"
    return f"the connection broke ({type(error).__name__})"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
