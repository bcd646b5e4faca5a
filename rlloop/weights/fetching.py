"""Fetching an entry of the catalogue: each file from the first source that has it, checked before it gets its name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from rlloop.weights.catalogue import Entry, File, Hub, Url
from rlloop.weights.download import Network, Remote, Report, discard, download
from rlloop.weights.hub import locate
from rlloop.weights.records import (
    kind_of,
    only_one,
    partial,
    read_records,
    state,
    write_record,
    wrong_checksum,
)

SPARE_BYTES = 64 << 20
ReportOf = Callable[[Entry, File], Report]


def fetch(entry: Entry, network: Network, report_of: ReportOf = lambda entry, file: lambda done, total: None) -> int:
    """Fetches what is missing of an entry.

    Args:
        report_of: gives for a file what to call with its progress.
    Returns:
        how many files were fetched.
    Raises:
        ValueError: offline, no space, not reached, refused, wrong checksum; one line. What came so far is kept,
            unless its checksum is wrong.
    """
    with only_one(entry):
        records = read_records(entry)
        missing = [file for file in entry.files if state(entry, file, records) != "verified"]
        for file in [file for file in missing if (entry.folder / file.name).is_file()]:
            adopt(entry, file)
            missing.remove(file)
        if missing and network.is_offline and any(file.sources for file in missing):
            raise ValueError(
                f"weights {entry.name}: HF_HUB_OFFLINE is set, so nothing is fetched; unset it, or "
                "`rlloop weights import FOLDER` with the files"
            )
        require_space(entry, missing)
        for file in missing:
            if file.content:
                write_content(entry, file)
            else:
                _fetch_file(entry, file, network, report_of(entry, file))
    return len(missing)


def adopt(entry: Entry, file: File, source: str = "found in place") -> None:
    """Records a file that lies in its place already.

    Raises:
        ValueError: it is not the published one.
    """
    path = entry.folder / file.name
    expected, checked = expected_checksums(entry, file, "")
    sha256, problem = wrong_checksum(path, expected)
    if problem:
        raise ValueError(f"{path} is not the published file: {problem}; remove it and fetch again")
    write_record(entry, file, sha256=sha256, source=source, checked=checked)


def expected_checksums(entry: Entry, file: File, stated: str) -> tuple[tuple[str, ...], str]:
    """The checksums that a file must have, and who says so: the catalogue, else the server, else an earlier record."""
    if file.checksums:
        return file.checksums, "catalogue"
    if record := read_records(entry).get(file.name):
        return (f"sha256:{record.sha256}",), "record"
    return ((stated,), "server") if stated else ((), "first use")


def require_space(entry: Entry, files: list[File]) -> None:
    """Refuses to begin what does not fit on the disk.

    Raises:
        ValueError: with both numbers.
    """
    parts = [partial(entry, file) for file in files]
    needed = sum(file.size for file in files) - sum(part.stat().st_size for part in parts if part.is_file())
    free = shutil.disk_usage(entry.folder).free
    if needed > 0 and needed + SPARE_BYTES > free:
        raise ValueError(
            f"weights {entry.name} need {needed / 1e9:.2f} GB more, {entry.folder} has {free / 1e9:.2f} GB free; "
            "free some, or set RLLOOP_WEIGHTS to another disk"
        )


def _fetch_file(entry: Entry, file: File, network: Network, report: Report) -> None:
    problems = []
    for source in file.sources:
        try:
            remote = offer(entry, file, source, network)
            etag = download(remote, partial(entry, file), network, report)
            return _put_in_place(entry, file, partial(entry, file), remote, etag)
        except ValueError as error:
            problems.append(str(error))
    raise ValueError(f"weights {entry.name}: " + "; then ".join(problems))


def write_content(entry: Entry, file: File) -> None:
    """Puts a file in place whose text the catalogue has."""
    part = partial(entry, file)
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_text(file.content)
    _put_in_place(entry, file, part, Remote("", "rlloop"), "")


def offer(entry: Entry, file: File, source: Hub | Url, network: Network) -> Remote:
    """What a source has, refused before it is fetched if it states another checksum than the catalogue.

    Raises:
        ValueError: it does, or see `rlloop.weights.hub.locate`.
    """
    if isinstance(source, Url):
        return Remote(source.url, source.url, num_bytes=file.num_bytes)
    remote = locate(source, network)
    expected, by = expected_checksums(entry, file, remote.stated)
    for checksum in expected:
        if kind_of(checksum) == kind_of(remote.stated) and checksum != remote.stated:
            raise ValueError(
                f"{remote.name}: the Hub states {remote.stated}, the {by} {checksum}: it was changed since; "
                f"{way_out(entry, by)}"
            )
    return remote


def _put_in_place(entry: Entry, file: File, part: Path, remote: Remote, etag: str) -> None:
    expected, checked = expected_checksums(entry, file, remote.stated)
    sha256, problem = wrong_checksum(part, expected)
    if problem:
        num_bytes = part.stat().st_size
        discard(part)
        raise ValueError(
            f"{remote.name}: {problem} (by the {checked}); the {num_bytes} bytes were removed; fetch again, and if it "
            f"stays so {way_out(entry, checked)}"
        )
    os.replace(part, entry.folder / file.name)
    discard(part)
    write_record(entry, file, sha256=sha256, source=remote.name, checked=checked, etag=etag or remote.identity)


def way_out(entry: Entry, by: str) -> str:
    """What to do about a file that is another one than is known."""
    if by == "record":
        return f"remove {entry.folder / 'lock.json'} if you trust the new file"
    return "get the file elsewhere and `rlloop weights import` it"
