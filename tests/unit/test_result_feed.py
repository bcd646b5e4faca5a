"""Results reach a reader once each, in any order of their end, also over a restart of who has them."""

from rlloop.recipes.result_feed import Known, results_after
from tests.unit.snapshots import evaluation

ALL = [evaluation(version, [[0.1], [0.2]]) for version in (0, 2, 1, 3)]


def test_each_result_is_handed_over_once():
    known, handed = Known(), []
    for there in (0, 1, 1, 3, 4):
        new = results_after(ALL[:there], 77, known.so_far)
        handed += new.results
        known = known.taken(new)
    assert handed == ALL and known.so_far == (77, 4)
    assert [result.version for result in known.by_version] == [0, 1, 2, 3]


def test_a_restarted_process_hands_over_all_that_it_has_in_its_own_order():
    known = Known().taken(results_after(ALL, 77, (0, 0)))
    again = sorted(ALL, key=lambda result: result.version)
    new = results_after(again, 78, known.so_far)
    assert new.first == 0
    assert list(known.taken(new).results) == again
