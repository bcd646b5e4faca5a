"""When the trainer's thread fits again: a lost controller, told from a fit that got on, without Ray."""

from types import SimpleNamespace

from ray.exceptions import RayActorError

from actors.fit import TrainerThread
from tests.unit.test_checkpoints import damage_flip, write


class ScriptedFits(TrainerThread):
    """Each fit marks the checkpoints that the script names, then its controller is lost; the last one is done."""

    def __init__(self, run_dir, script) -> None:
        config = SimpleNamespace(trainer=SimpleNamespace(max_failures=0))
        super().__init__(SimpleNamespace(path=run_dir, config=config))
        self.run_dir, self.script, self.fits = run_dir, script, 0

    def _fit(self, number):
        self.fits = number
        for version, step in self.script[number - 1]:
            write(self.run_dir, version, step)
        if number < len(self.script):
            raise RayActorError()

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
