"""A web server inside the test process: answers are functions, requests are kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[["Handler"], None]
AMPLE_S = 60.0  # the deadline of what is to come: a server thread on busy cores has needed over half a second


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        self.server.tokens.add(self.headers.get("Authorization"))
        self.server.answers.get(self.path, missing)(self)

    do_HEAD = do_GET

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Headers are given with underscores; a Content_Length of its own makes the body shorter than promised."""
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args) -> None:
        pass


class Web(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.requests: list[str] = []
        self.tokens: set[str | None] = set()
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving() -> Iterator[Web]:
    with Web() as web:
        threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True).start()
        yield web
        web.shutdown()


def missing(request: Handler) -> None:
    request.reply(404)


def ranged(content: bytes, etag: str = '"one"', cut: int | None = None) -> Answer:
    """Sends what is asked for; with `cut`, at most so many bytes before the connection closes."""

    def answer(request: Handler) -> None:
        asked = request.headers.get("Range", "bytes=0-")
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if request.headers.get("If-Range", etag) != etag:
            start = 0
        if start >= len(content):
            return request.reply(416, Content_Range=f"bytes */{len(content)}")
        body = content[start:]
        span = {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        request.reply(206 if start else 200, body[:cut], Content_Length=str(len(body)), ETag=etag, **span)

    return answer


def in_turn(*answers: Answer) -> Answer:
    """A different answer each time; the last one stays."""
    left = list(answers)
    return lambda request: (left.pop(0) if len(left) > 1 else left[0])(request)
