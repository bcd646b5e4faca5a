"""The short form of `make chaos`: processes of all roles but a node are killed at random moments of one run."""

import pytest

from bench.chaos_checks import results_of
from bench.chaos_killer import Orders
from bench.chaos_roles import WEIGHTS
from bench.chaos_run import ChaosRun
from rlloop.config import load
from tests.ray import runs
from tests.ray.conftest import SYNCHRONOUS

pytestmark = pytest.mark.ray
ROLES = {role: weight for role, weight in WEIGHTS.items() if weight == 1 and role != "node"}
# Slower models, for the kills to fall into the run; the results are the same. No room for what a lost controller held.
SLOW = (
    SYNCHRONOUS, "loop.max_attempts=100", "generator.options={delay_s: 1.5, step_delay_s: 0.15}",
    "trainer.num_cpus=0.9", "loop.tickets_per_slot=2",
)  # fmt: skip


def test_a_run_under_fire_loses_nothing_and_ends_as_if_undisturbed(reference, tmp_path):
    undisturbed = reference[0]
    expected = results_of(undisturbed, runs.records(undisturbed), load(runs.FAKE, [SYNCHRONOUS]))
    orders = Orders(seed=0, first=0, kills=len(ROLES) + 1, weights=ROLES, counts={}, pace=0.4)
    outcome = ChaosRun(tmp_path / "run", orders, SLOW, preset=runs.FAKE).play(expected)
    print([(kill.role, kill.after, round(kill.seconds_into_run), kill.seconds) for kill in outcome.kills])
    assert outcome.violations == []
    killed = {kill.role for kill in outcome.kills}
    assert len(killed) >= 6 and "driver" in killed, killed  # the run may end before the last one
    assert outcome.commands == 2  # only the driver's death needs the command again
