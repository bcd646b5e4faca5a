"""Finding the cluster of a run: what is given, what the run noted, and what is said when neither leads anywhere."""

import json
import socket

import pytest

from rlloop.loop.joining import find_address


def noted(tmp_path, address, auth_mode="token"):
    (tmp_path / "ray.json").write_text(json.dumps({"address": address, "auth_mode": auth_mode}))
    return str(tmp_path)


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_what_is_given_goes_before_the_environment_and_that_before_what_the_run_noted(tmp_path, listening):
    run = noted(tmp_path, listening)
    assert find_address(run, "a:1", {"RAY_ADDRESS": "b:2"}) == "a:1"
    assert find_address(run, None, {"RAY_ADDRESS": "b:2"}) == "b:2"
    environment = {}
    assert find_address(run, None, environment) == listening
    assert environment["RAY_AUTH_MODE"] == "token", "Ray leaves tokens off where it joins a cluster"
    assert environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0", "its node is found on loopback as it was started"
    mine = {"RAY_AUTH_MODE": "disabled"}
    find_address(run, None, mine)
    assert mine["RAY_AUTH_MODE"] == "disabled"


def test_no_run_an_ended_one_and_a_damaged_note_are_one_line_each(tmp_path):
    with pytest.raises(ValueError, match="holds no run that was started"):
        find_address(str(tmp_path), None, {})
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(ValueError, match="does not answer, so the run has ended"):
        find_address(noted(tmp_path, closed), None, {})
    (tmp_path / "ray.json").write_text('["a"]')
    with pytest.raises(ValueError, match="names no address of a cluster"):
        find_address(str(tmp_path), None, {})
