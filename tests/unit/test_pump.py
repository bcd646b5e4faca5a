"""The pump's loop over segments, without Ray: which of them end the run, and when none is begun."""

from types import SimpleNamespace

from actors.pump import Pump
from rlloop.loop.barren import barren_after


class Answers:
    """A session: `call` answers from a table, or by the next of a list; what was asked and told is kept."""

    def __init__(self, **answers) -> None:
        self.answers, self.asked, self.told = answers, [], []
        self.config = SimpleNamespace()

    def call(self, who, name, method, *args, **deadlines):
        self.asked.append((method, *args))
        answer = self.answers.get(method)
        return answer.pop(0) if isinstance(answer, list) else answer

    def tell(self, name, method, *args):
        self.told.append((method, *args))


class ScriptedPump(Pump):
    """Each segment does what the script says next: nothing, a commit, or raises; at the script's end it is done."""

    def __init__(self, session, script) -> None:
        self.session, self.state, self.segment, self.script = session, "idle", 0, list(script)

    def _scored_slots(self, sizes):
        what = self.script.pop(0)
        if not self.script:
            self.state = "done"
        if what == "raises":
            raise RuntimeError("no worker starts")
        yield from [["a ticket"]] if what == "commits" else []


def stops(script, cut):
    """What the pump told the buffer to stop with, if it did."""
    session = Answers(
        wanted_version=0, newest=0, begin_segment=list(range(1, 9)), pool_sizes={}, was_cut=list(cut), commit=True
    )
    ScriptedPump(session, script)._run()
    return [args[0] for method, *args in session.asked if method == "stop"]


def test_three_barren_segments_end_the_run_but_not_those_that_were_cut_short():
    assert stops(["nothing"] * 4, cut=[True] * 4) == [], "resized three times before a first commit"
    assert stops(["nothing"] * 4, cut=[False] * 4) == ["3 segments in a row without a commit; last: no exception"]
    said = stops(["raises"] * 4, cut=[True] * 4)
    assert said == ["3 segments in a row without a commit; last: RuntimeError: no worker starts"]
    assert stops(["raises", "raises", "commits", "raises", "raises"], cut=[False] * 4) == []


def test_a_segment_that_was_cut_short_neither_counts_nor_excuses_those_before():
    assert barren_after(2, committed=0, failed=False, was_cut=True) == 2
    assert barren_after(2, committed=0, failed=True, was_cut=True) == 3
    assert barren_after(2, committed=1, failed=True, was_cut=False) == 0


def test_no_segment_is_begun_while_the_store_lacks_the_published_version():
    session = Answers(wanted_version=[None, 1, 1], newest=[0, 1])
    pump = ScriptedPump(session, [])
    assert not pump._has_work() and not session.told, "nothing to do"
    assert not pump._has_work()
    ((method, text),) = session.told
    assert method == "note" and "version 1 is published, the newest valid checkpoint is of version 0" in text
    assert pump._has_work() and len(session.told) == 1
