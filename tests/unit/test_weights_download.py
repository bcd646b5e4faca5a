"""One file over HTTP: interrupted, changed, refused, stalled, and what is said of each."""

import gzip
import threading
from dataclasses import replace

import pytest

from rlloop.weights.download import CHUNK, Network, Remote, download, without_secrets
from tests.unit.web import AMPLE_S, in_turn, ranged, serving

HALF = 5 * CHUNK
CONTENT = bytes(range(256)) * (2 * HALF // 256)
ONCE = Network(connect_s=AMPLE_S, read_s=AMPLE_S, tries=1, backoff_s=0.0)
PATIENT = replace(ONCE, tries=3)
HASTY = replace(ONCE, read_s=2.0)


@pytest.fixture
def web():
    with serving() as web:
        yield web


def fetch(web, part, network=ONCE, **more) -> str:
    return download(Remote(f"{web.address}/f", "the file", **more), part, network, lambda done, total: None)


def test_progress_ends_at_all_bytes(web, tmp_path):
    web.answers["/f"] = ranged(CONTENT)
    seen = []
    remote = Remote(f"{web.address}/f", "the file")
    assert download(remote, tmp_path / "part", ONCE, lambda *now: seen.append(now)) == '"one"'
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_cut_connection_is_resumed_where_it_was(web, tmp_path):
    web.answers["/f"] = in_turn(ranged(CONTENT, cut=HALF), ranged(CONTENT))
    fetch(web, tmp_path / "part", PATIENT)
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert web.requests == ["GET /f", f"GET /f bytes={HALF}-"]


def test_a_later_command_resumes_too(web, tmp_path):
    web.answers["/f"] = in_turn(ranged(CONTENT, cut=HALF), lambda request: request.reply(500), ranged(CONTENT))
    with pytest.raises(ValueError, match=f"the file: .*500 .*1 times in a row, {HALF} bytes are kept"):
        fetch(web, tmp_path / "part")
    fetch(web, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT and web.requests[-1] == f"GET /f bytes={HALF}-"


def test_many_cuts_are_no_failure_as_long_as_bytes_come(web, tmp_path):
    web.answers["/f"] = ranged(CONTENT, cut=len(CONTENT) // 10)
    fetch(web, tmp_path / "part", PATIENT)
    assert (tmp_path / "part").read_bytes() == CONTENT and len(web.requests) == 10


def test_another_version_is_not_appended_to_the_old(web, tmp_path):
    other = CONTENT[::-1]
    web.answers["/f"] = in_turn(ranged(CONTENT, cut=HALF), ranged(other, '"two"'))
    fetch(web, tmp_path / "part", PATIENT)
    assert (tmp_path / "part").read_bytes() == other


def test_a_server_that_ignores_if_range_is_seen_by_its_etag(web, tmp_path):
    def careless(request):
        start = int(request.headers.get("Range", "bytes=0-")[6:-1])
        span = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        request.reply(206 if start else 200, CONTENT[::-1][start:], ETag='"two"', Content_Range=span)

    web.answers["/f"] = in_turn(ranged(CONTENT, cut=HALF), careless)
    fetch(web, tmp_path / "part", PATIENT)
    assert (tmp_path / "part").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("etag", ['"one"', 'W/"weak"', ""])
def test_without_ranges_it_begins_anew(web, tmp_path, etag):
    headers = {"ETag": etag} if etag else {}
    web.answers["/f"] = in_turn(
        lambda request: request.reply(200, CONTENT[:HALF], Content_Length=str(len(CONTENT)), **headers),
        lambda request: request.reply(200, CONTENT, **headers),
    )
    fetch(web, tmp_path / "part", PATIENT)
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert ("bytes" in web.requests[1]) == (etag == '"one"')


def test_a_complete_part_is_not_fetched_again(web, tmp_path):
    web.answers["/f"] = ranged(CONTENT)
    fetch(web, tmp_path / "part")
    fetch(web, tmp_path / "part")  # 416: there is nothing behind it
    fetch(web, tmp_path / "part", identity="known", num_bytes=len(CONTENT))  # another content
    fetch(web, tmp_path / "part", identity="known", num_bytes=len(CONTENT))  # known to be complete
    assert web.requests == ["GET /f", f"GET /f bytes={len(CONTENT)}-", "GET /f"]


def test_a_part_that_is_too_long_begins_anew(web, tmp_path):
    web.answers["/f"] = ranged(CONTENT)
    fetch(web, tmp_path / "part")
    with (tmp_path / "part").open("ab") as file:
        file.write(b"more")
    fetch(web, tmp_path / "part", PATIENT)
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_a_redirect_keeps_the_range(web, tmp_path):
    web.answers["/f"] = lambda request: request.reply(302, Location="/there")
    web.answers["/there"] = in_turn(ranged(CONTENT, cut=HALF), ranged(CONTENT))
    fetch(web, tmp_path / "part", PATIENT)
    assert (tmp_path / "part").read_bytes() == CONTENT and web.requests[-1] == f"GET /there bytes={HALF}-"


def test_a_body_that_is_compressed_unasked_is_no_shorter_file(web, tmp_path):
    packed = gzip.compress(CONTENT)
    web.answers["/f"] = lambda request: request.reply(200, packed, Content_Encoding="gzip")
    fetch(web, tmp_path / "part", num_bytes=len(CONTENT))
    assert (tmp_path / "part").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("status", "message"),
    [(404, "no such file .404"), (401, "refuses access .401"), (403, "refuses access"), (418, "answers 418")],
)
def test_a_refusal_is_final(web, tmp_path, status, message):
    web.answers["/f"] = lambda request: request.reply(status)
    with pytest.raises(ValueError, match=f"^the file: .*{message}") as error:
        fetch(web, tmp_path / "part", PATIENT)
    assert len(web.requests) == 1 and "\n" not in str(error.value)


def test_a_busy_server_is_asked_again(web, tmp_path):
    web.answers["/f"] = in_turn(lambda request: request.reply(503), ranged(CONTENT))
    fetch(web, tmp_path / "part", PATIENT)
    web.answers["/f"] = lambda request: request.reply(503)
    with pytest.raises(ValueError, match="answers 503 .*3 times in a row"):
        fetch(web, tmp_path / "other", PATIENT)


def test_another_size_than_expected_is_refused_before_it_is_fetched(web, tmp_path):
    web.answers["/f"] = ranged(CONTENT)
    with pytest.raises(ValueError, match=f"offers {len(CONTENT)} bytes, expected 5"):
        fetch(web, tmp_path / "part", num_bytes=5)
    assert not (tmp_path / "part").exists()


def test_a_stalled_server_meets_the_deadline(web, tmp_path):
    forever = threading.Event()

    def stall(request):
        request.reply(200, CONTENT[:HALF], Content_Length=str(len(CONTENT)), ETag='"one"')
        forever.wait(AMPLE_S)

    web.answers["/f"] = stall
    with pytest.raises(ValueError, match=f"sent nothing for 2 s .*{HALF} bytes are kept"):
        fetch(web, tmp_path / "part", HASTY)
    forever.set()


def test_no_one_there(tmp_path):
    with serving() as web:
        pass
    with pytest.raises(ValueError, match="^the file: the connection was refused") as error:
        fetch(web, tmp_path / "part")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="the file: MissingSchema; check the address"):
        download(Remote("nowhere", "the file"), tmp_path / "part", ONCE, lambda done, total: None)


def test_what_the_environment_says(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror/")
    monkeypatch.setenv("HF_HUB_OFFLINE", "yes")
    assert (Network.from_environment().endpoint, Network.from_environment().is_offline) == ("https://mirror", True)
    monkeypatch.setenv("HF_ENDPOINT", "")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert (Network.from_environment().endpoint, Network.from_environment().is_offline) == (None, False)


def test_names_carry_no_secrets():
    assert without_secrets("https://me:secret@mirror.org:8/a/b?X-Signature=1#c") == "https://mirror.org:8/a/b"
