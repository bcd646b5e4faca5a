"""Starts the control actors: buffer, store, evaluator and pump."""

from __future__ import annotations

import time

from actors.session import Session
from rlloop.resources import node_request

_HANDLES: list = []  # a named actor that is not detached lives as long as a handle to it


def start_actors(session: Session) -> None:
    """Creates the control actors by name; each restarts by itself for ever.

    Buffer, store and pump stay on the driver's node: another may go away, and with it what the store owns. The
    evaluator holds nothing that is not in a file, so it goes where there is room.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from actors.buffer import THREADS, Buffer
    from actors.evaluator import Evaluator
    from actors.pump import Pump
    from actors.store import PolicyStore

    evaluation = session.config.evaluation
    here = {"scheduling_strategy": NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)}
    for name, cls, options in (
        ("buffer", Buffer, {**here, "max_concurrency": THREADS}),
        ("store", PolicyStore, here),
        (
            "evaluator",
            Evaluator,
            {
                "num_cpus": evaluation.num_cpus,
                "num_gpus": evaluation.num_gpus,
                "resources": node_request(evaluation.node),
            },
        ),
        ("pump", Pump, here),
    ):
        options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": 0, **options}
        handle = ray.remote(cls).options(name=name, namespace=session.namespace, **options).remote(session)
        _HANDLES.append(handle)
        if name in ("buffer", "store"):
            _await_ready(name, handle, session.config.loop.wait_timeout_s)


def forget_actors() -> None:
    """Lets go of all handles, before Ray ends."""
    _HANDLES.clear()


def _await_ready(name: str, handle, timeout_s: float) -> None:
    """Waits for an actor's __init__; one that is lost meanwhile comes again by itself.

    Raises:
        ValueError: what __init__ raised, as one line.
        TimeoutError: it did not come up in time.
    """
    import ray

    began = time.monotonic()
    while True:
        try:
            ray.get(handle.__ray_ready__.remote(), timeout=timeout_s)
            return
        except ray.exceptions.RayActorError as error:
            if error.actor_init_failed:
                raise ValueError(f"{name} cannot start: {str(error).strip().splitlines()[-1]}") from None
            if time.monotonic() - began > timeout_s:
                raise TimeoutError(f"driver waits for actor {name} to start since {timeout_s:.0f} s") from None
            time.sleep(0.2)
        except ray.exceptions.GetTimeoutError:
            raise TimeoutError(f"driver waits for actor {name} to start since {timeout_s:.0f} s") from None
