"""Whose node is gone and not replaced is waited for no longer than a grace time, and once."""

from rlloop.loop.absence import GRACE_S, Absence, observe

HOME = {"a": "n1", "b": "n2", "c": "n3"}
ALL = frozenset(HOME.values())


class Watch:
    """A segment of three actors, looked at every 2 s."""

    def __init__(self, alive=ALL):
        self.now, self.alive, self.segment, self.places = 100.0, alive, 1, dict(HOME)
        self.state = Absence()

    def looks(self, seconds: float) -> list[float]:
        """When, in seconds from now, the stream was said to be started anew."""
        said, began = [], self.now
        while self.now < began + seconds:
            self.state, is_over = observe(self.state, self.alive, self.segment, self.places, 3, self.now)
            said += [self.now - began] if is_over else []
            self.now += 2
        return said


def test_a_whole_pool_is_left_alone():
    assert Watch().looks(500) == []


def test_a_lost_node_ends_the_segment_once_after_the_grace_time():
    watch = Watch()
    watch.looks(10)
    watch.alive = ALL - {"n2"}
    assert watch.looks(500) == [GRACE_S]
    watch.segment, watch.places = 2, {"a": "n1", "c": "n3"}
    assert watch.looks(500) == []  # b waits for a node, and nothing waits for b


def test_an_actor_that_finds_another_place_is_awaited():
    watch = Watch()
    watch.looks(10)
    watch.alive = ALL - {"n2"}
    assert watch.looks(GRACE_S - 4) == []
    watch.places["b"] = "n1"
    assert watch.looks(500) == []


def test_a_node_without_actors_of_the_segment_is_nobodys_loss():
    watch = Watch(ALL | {"n4"})
    watch.looks(10)
    watch.alive = ALL
    assert watch.looks(500) == []


def test_actors_that_load_are_no_loss_and_a_second_loss_counts():
    watch = Watch()
    watch.places = {}
    assert watch.looks(500) == []
    watch.places = dict(HOME)
    watch.looks(4)
    for node in ("n1", "n2"):
        watch.alive = watch.alive - {node}
        assert watch.looks(100) == [GRACE_S]


def test_a_new_segment_begins_the_count_anew():
    watch = Watch()
    watch.looks(10)
    watch.alive = ALL - {"n2"}
    watch.looks(GRACE_S - 4)
    watch.segment, watch.places = 2, {"a": "n1", "c": "n3"}
    assert watch.looks(500) == []
