"""When the trainer's thread fits again: a lost controller, told from a fit that got on, without Ray."""

from types import SimpleNamespace

import pytest
from ray.exceptions import ActorUnavailableError, RayActorError
from ray.train import ControllerError, WorkerGroupError

from actors.fit import TrainerThread
from tests.unit.test_checkpoints import damage_flip, write


class ScriptedFits(TrainerThread):
    """Each fit marks the checkpoints that the script names, then its controller is lost; the last one is done.

    error: that each fit but the last raises instead.
    """

    def __init__(self, run_dir, script, error=None, max_failures=0) -> None:
        config = SimpleNamespace(trainer=SimpleNamespace(max_failures=max_failures))
        super().__init__(SimpleNamespace(path=run_dir, config=config))
        self.run_dir, self.script, self.fits, self.raises = run_dir, script, 0, error or RayActorError()

    def _fit(self, number):
        self.fits = number
        for version, step in self.script[number - 1]:
            write(self.run_dir, version, step)
        if number < len(self.script):
            raise self.raises

    def _free_resources(self):
        pass


def test_a_fit_that_got_on_below_a_damaged_checkpoint_was_not_in_vain(tmp_path):
    write(tmp_path, 4)
    damage_flip(write(tmp_path, 5))
    trainer = ScriptedFits(tmp_path, [[(4, 10)], [(4, 20)], [(5, 0)]])
    trainer.run()
    assert trainer.fits == 3 and not trainer.error


def test_a_fit_that_marked_nothing_was_in_vain(tmp_path):
    write(tmp_path, 4)
    trainer = ScriptedFits(tmp_path, [[(4, 10)], [], [(5, 0)]])
    trainer.run()
    assert trainer.fits == 2 and trainer.error


@pytest.mark.parametrize(
    ("error", "fits"),
    [
        (RayActorError(), 3),
        (ControllerError(ActorUnavailableError("Socket closed", None)), 3),  # a node went while the workers started
        (WorkerGroupError("boom", {0: ValueError("boom")}), 1),  # of the workers: Train has tried them again
    ],
)
def test_a_controller_that_failed_is_started_anew_as_often_as_may_be(tmp_path, error, fits):
    trainer = ScriptedFits(tmp_path, [[]] * 9, error, max_failures=2)
    trainer.run()
    assert trainer.fits == fits and trainer.error
