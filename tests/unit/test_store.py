"""Weights on their way to a reader: damaged, lost, late; what is said of each, who tries again. No Ray is started."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from ray.exceptions import GetTimeoutError, ObjectLostError, RayTaskError

from actors.evaluator import Evaluator
from actors.session import NoAnswer, first_line
from actors.store import PolicyRef, WeightsLost, fetch_arrays
from actors.trainer import Worker
from rlloop.loop.checkpoints import arrays_checksum

GOOD = {"w": np.arange(4.0)}
LOST = ObjectLostError("00ff", None, "")


class Store:
    """A session whose store has version 3; `get` gives what comes next, or raises it."""

    config = SimpleNamespace(loop=SimpleNamespace(wait_timeout_s=5))

    def __init__(self, *comes) -> None:
        self.comes, self.asked = list(comes), []

    def call(self, who, name, method, *args):
        self.asked.append(method)
        return PolicyRef(3, arrays_checksum(GOOD), 0, ["a reference"])

    def get(self, reference, timeout):
        found = self.comes.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


def fetch(*comes):
    store = Store(*comes)
    return fetch_arrays(store, "sampler-1", None, store.get), store.asked


@pytest.mark.parametrize("first", [{"w": np.zeros(4)}, LOST])
def test_what_is_damaged_or_lost_once_is_read_anew(first):
    (version, arrays), asked = fetch(first, GOOD)
    assert version == 3 and arrays is GOOD and asked == ["fetch", "forget"]


def test_each_failure_is_named_as_what_it_is():
    with pytest.raises(ValueError, match="sampler-1: version 3 fails its checksum [0-9a-f]{8}, read anew, too"):
        fetch({"w": np.zeros(4)}, {"w": np.zeros(4)})
    with pytest.raises(WeightsLost, match=r"sampler-1: the weights of version 3 were lost twice \(ObjectLostError: "):
        fetch(LOST, LOST)
    with pytest.raises(NoAnswer, match="sampler-1 waits for store.arrays of version 3 since 5 s; last error: GetTime"):
        fetch(GetTimeoutError("not there"))


def test_a_trainer_whose_version_the_store_cannot_read_starts_anew():
    worker = Worker.__new__(Worker)
    worker.session = SimpleNamespace(call=lambda who, name, method: 1)
    worker._look_at_store(1)
    with pytest.raises(RuntimeError, match="checkpoint of version 2 is damaged, the newest valid one is of version 1"):
        worker._look_at_store(2)


def test_a_call_that_could_not_in_time_is_made_again(monkeypatch):
    """As a commit does whose first try is still at a slow disk."""
    from actors import session

    answers = [TimeoutError("buffer waits for the disk"), 1]

    def get(reference, timeout):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(session.ray, "get", get)
    monkeypatch.setattr(session.Session, "actor", lambda self, name: SimpleNamespace(commit=SimpleNamespace(remote=id)))
    assert session.Session("run", 1).call("pump", "buffer", "commit", 0, timeout_s=9) == 1 and not answers


class ScriptedEvaluator(Evaluator):
    """`_evaluate` raises what the script says."""

    def __init__(self, error) -> None:
        self.error_of_it, self.session = error, SimpleNamespace(note=self.notes().append)

    def notes(self):
        self.said = []
        return self.said

    def _evaluate(self, version):
        raise self.error_of_it


def test_an_evaluation_whose_weights_are_lost_is_tried_again():
    evaluator = ScriptedEvaluator(WeightsLost("evaluator: the weights of version 3 were lost twice"))
    evaluator._try(3)
    assert evaluator.said == ["evaluator: the weights of version 3 were lost twice; tried again"]
    with pytest.raises(ValueError, match="wrong"):
        ScriptedEvaluator(ValueError("wrong"))._try(3)


def test_no_answer_shows_the_last_error_and_survives_its_way_between_processes():
    error = NoAnswer("scale", "buffer", "pools", 60.2, first_line(RuntimeError("the actor died\nits trace")))
    said = "scale waits for buffer.pools since 60 s; last error: RuntimeError: the actor died; logs: ray logs"
    assert str(error) == str(pickle.loads(pickle.dumps(error))) == said
    assert first_line(RuntimeError()) == "RuntimeError"
    there = RayTaskError("commit", "its trace", TimeoutError("buffer waits for the disk")).as_instanceof_cause()
    assert isinstance(there, TimeoutError) and first_line(there) == "TimeoutError: buffer waits for the disk"
