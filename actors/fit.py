"""The trainer's fit(), in a thread of the driver that fits again where Ray Train would not."""

from __future__ import annotations

import logging
import math
import threading

from actors.session import Session
from rlloop.loop.checkpoints import marked_at
from rlloop.resources import node_request

log = logging.getLogger(__name__)


class TrainerThread(threading.Thread):
    """One TorchTrainer.fit(); in a thread, because on the main thread Train installs an aborting SIGINT handler."""

    def __init__(self, session: Session) -> None:
        super().__init__(name="trainer", daemon=True)
        self.session, self.error, self.is_ending = session, "", False

    def run(self) -> None:
        """Fits again where a fit that got on has failed, or its controller was lost or failed: Train does none of it.

        A controller fails where a node goes while it starts its workers. What the workers themselves raised, Train has
        tried again `max_failures` times.
        """
        from ray.exceptions import RayActorError
        from ray.train import ControllerError

        fits, in_vain = 0, 0
        while True:
            fits, marked = fits + 1, marked_at(self.session.path)
            try:
                self._fit(fits)
                self.error = ""
                return
            except Exception as error:
                log.exception("fit() %d ended", fits)
                if self.is_ending:  # Ray may be gone by now, and a call would start another
                    return
                self._free_resources()
                self.error = " ".join(str(error).split())[-400:] or type(error).__name__
                in_vain = in_vain + 1 if marked_at(self.session.path) == marked else 0
                is_of_controller = isinstance(error, RayActorError | ControllerError)
                if in_vain > (self.session.config.trainer.max_failures if is_of_controller else 0):
                    return

    def _free_resources(self) -> None:
        try:
            remove_groups()
        except Exception:  # the next fit may find room all the same, and says what it lacks
            log.exception("the placement groups of the last fit may be left")

    def _fit(self, number: int) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        from actors.trainer import train_worker

        session, settings = self.session, self.session.config.trainer
        use_gpu, least = settings.num_gpus > 0, settings.min_workers
        resources = {"CPU": settings.num_cpus, **node_request(settings.node)}
        resources |= {"GPU": settings.num_gpus} if use_gpu else {}
        TorchTrainer(
            train_worker,
            train_loop_config={"run_dir": session.run_dir, "epoch": session.epoch},
            torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=collective_timeout_s(session)),
            scaling_config=ScalingConfig(
                num_workers=settings.num_workers if least is None else (least, settings.num_workers),
                use_gpu=use_gpu,
                resources_per_worker=resources,
            ),
            run_config=RunConfig(
                name=f"epoch{session.epoch:06d}-{number}",
                storage_path=str(session.path / "ray_train"),
                failure_config=FailureConfig(max_failures=settings.max_failures),
            ),
        ).fit()


def remove_groups() -> None:
    """Frees what the placement groups of this job hold, which are Train's alone, before it asks for another.

    Train's cleaner does it for a controller that was killed, but finds out by the State API, which needs a dashboard.
    """
    import ray
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    job = ray.get_runtime_context().get_job_id()
    for number, entry in placement_group_table().items():
        if number.endswith(job) and entry["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(number)))


def collective_timeout_s(session: Session) -> int:
    """Deadline of every collective among the trainer's workers: after the watchdog's, which shows who hangs where."""
    loop = session.config.loop
    return math.ceil(max(loop.stall_timeout_s, loop.start_timeout_s) + loop.wait_timeout_s)
