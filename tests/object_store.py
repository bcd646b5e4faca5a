"""An object store on loopback that speaks as much of S3 as a run's copy needs: put, get, head, list, delete, parts."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def chunks(source: BinaryIO) -> bytes:
    """The data of a chunked stream, up to the empty line behind its trailers."""
    data = b""
    while size := int(source.readline().split(b";")[0], 16):
        data += source.read(size)
        source.readline()
    while source.readline().strip():
        pass
    return data


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        return

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def where(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        return unquote(parts.path).lstrip("/"), query

    def body(self) -> bytes:
        """What was sent: as it is, or in chunks, those of HTTP around those that carry S3's checksums."""
        if "Transfer-Encoding" in self.headers:
            data = chunks(self.rfile)
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return chunks(io.BytesIO(data)) if "aws-chunked" in self.headers.get("Content-Encoding", "") else data

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        key, query = self.where()
        objects = self.server.objects
        if "list-type" in query:
            start = f"{key.rstrip('/')}/{query.get('prefix', '')}"
            found = [name for name in objects if name.startswith(start)][: int(query.get("max-keys", 1000))]
            entries = "".join(
                f"<Contents><Key>{name.partition('/')[2]}</Key><Size>{len(objects[name])}</Size>"
                "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                for name in found
            )
            text = f"<ListBucketResult {NAMESPACE}><KeyCount>{len(found)}</KeyCount>{entries}</ListBucketResult>"
            return self.answer(200, text.encode(), Content_Type="application/xml")
        if "/" not in key.rstrip("/"):
            return self.answer(200)  # the bucket itself
        if key not in objects:
            return self.answer(404)
        data, span = objects[key], self.headers.get("Range")
        headers = {"ETag": f'"{md5(data).hexdigest()}"', "Last_Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        if span is None:
            return self.answer(200, data, **headers)
        first, last = (int(part) for part in span.removeprefix("bytes=").split("-"))
        part = data[first : last + 1]
        return self.answer(206, part, Content_Range=f"bytes {first}-{first + len(part) - 1}/{len(data)}", **headers)

    def do_PUT(self) -> None:
        (key, query), data = self.where(), self.body()
        if "partNumber" in query:
            self.server.parts[key, int(query["partNumber"])] = data
        else:
            self.server.objects[key] = data
        self.answer(200, ETag=f'"{md5(data).hexdigest()}"')

    def do_POST(self) -> None:
        (key, query), _ = self.where(), self.body()
        if "uploads" in query:
            name = f"<UploadId>1</UploadId><Key>{key.partition('/')[2]}</Key>"
            text = f"<InitiateMultipartUploadResult {NAMESPACE}>{name}</InitiateMultipartUploadResult>"
        else:
            numbers = sorted(number for name, number in self.server.parts if name == key)
            self.server.objects[key] = b"".join(self.server.parts.pop((key, number)) for number in numbers)
            text = f"<CompleteMultipartUploadResult {NAMESPACE}><ETag>1</ETag></CompleteMultipartUploadResult>"
        self.answer(200, text.encode(), Content_Type="application/xml")

    def do_DELETE(self) -> None:
        self.server.objects.pop(self.where()[0], None)
        self.answer(204)


@contextlib.contextmanager
def object_store() -> Iterator[tuple[dict[str, bytes], str]]:
    """(objects by bucket/key, what goes behind an s3:// URI to reach them)."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.objects, server.parts = {}, {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.objects, f"?endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=us-east-1"
    finally:
        server.shutdown()
        server.server_close()
