"""Observer: gathers what the views show by calls that never block the driver for long."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray

from actors.session import Session
from actors.storage import StorageWatch
from rlloop.loop.checkpoints import stored_points
from rlloop.loop.snapshot import EvaluationResult, MomentClip, PoolStats, Snapshot, TrainPoint
from rlloop.recipes.result_feed import Known

GET_TIMEOUT_S = 5.0
SILENT_S = 30.0


class Observer:
    """Polls buffer, store and evaluator; keeps the last answer of each when one is restarting."""

    def __init__(self, session: Session, started_at: float, notes: Sequence[str] = ()) -> None:
        self.session, self.started_at, self.notes = session, started_at, notes
        self.report: dict[str, Any] = {}
        self.evaluator: dict[str, Any] = {}
        self.store: dict[str, Any] = {}
        self.results = Known()
        self.storage = StorageWatch(session.path)
        self.stored: list[TrainPoint] = []
        self.last_step, self.last_step_at = 0, started_at
        self.answered_at: dict[str, float] = {}
        self.progressed_at, self.has_worked = 0.0, False
        self.pending: dict[str, Any] = {}
        self.restarts: dict[str, int] = {}
        self.pids: dict[str, int] = {}

    @property
    def evaluator_error(self) -> str:
        return self.evaluator.get("error", "")

    @property
    def last_progress(self) -> float:
        """Unix seconds of the last commit, step or held-out clip in this start; 0.0 before the first."""
        return self.progressed_at

    def silent(self) -> str:
        """Whom the driver waits for itself, '' when all answer."""
        now = time.time()
        waited = {name: now - self.answered_at.get(name, self.started_at) for name in ("buffer", "store", "evaluator")}
        return "".join(f"; the driver waits for {n}.status since {s:.0f} s" for n, s in waited.items() if s > SILENT_S)

    def snapshot(self) -> Snapshot:
        """One picture of the run; parts that do not answer in time show their last known state."""
        self._refresh("buffer", "report", self.last_step)
        self._refresh("evaluator", "status", self.results.so_far)
        self._refresh("store", "status", self._sizes()["sampler"])
        self._refresh("pump", "status")
        found = {p.step: p for p in (*self.stored, *self.report.get("points", ()))}
        points = [found[step] for step in sorted(found) if step > self.last_step]
        if points:
            self.last_step, self.last_step_at = max(p.step for p in points), time.time()
        return self._compose(points)

    def read_stored_points(self) -> None:
        """Those of the newest checkpoint, once the trainer has ended: a buffer that died since lost its own."""
        self.stored = stored_points(self.session.path)

    @property
    def has_all_evaluations(self) -> bool:
        """Whether every required version has its stored result."""
        return bool(self.evaluator) and not self.evaluator.get("missing", [0])

    @property
    def alarms(self) -> list[dict]:
        """Findings of all evaluations so far that set off the alarm."""
        return [found for result in self._results() for found in result.alarms]

    def _results(self) -> list[EvaluationResult]:
        """All evaluations so far, by version."""
        return self.results.by_version or self._stored_results()

    def _messages(self) -> tuple[str, ...]:
        said = (*self.notes, *self.report.get("messages", ()), *(f"ALARM: {found['text']}" for found in self.alarms))
        return tuple(dict.fromkeys(said))

    def _refresh(self, name: str, method: str, *args: Any) -> None:
        """Takes an answer if there is one; asks again otherwise. A dead or busy actor leaves the last answer."""
        try:
            future = self.pending.pop(name, None) or getattr(self.session.actor(name), method).remote(*args)
            if not ray.wait([future], timeout=GET_TIMEOUT_S)[0]:
                self.pending[name] = future
                return
            answer = ray.get(future, timeout=GET_TIMEOUT_S)
        except (ray.exceptions.RayError, ValueError):
            return
        self.answered_at[name] = time.time()
        self._count_restart(name, answer["pid"])
        if name == "store":
            self.store = answer
        elif name == "buffer":
            self.report = answer
            self.progressed_at = max(self.progressed_at, answer["last_progress"])
            self.has_worked = self.has_worked or answer["has_worked"]
        elif name == "evaluator":
            self.evaluator = answer
            self.results = self.results.taken(answer["results"])

    def _count_restart(self, name: str, pid: int) -> None:
        if self.pids.setdefault(name, pid) != pid:
            self.restarts[name] = self.restarts.get(name, 0) + 1
            self.pids[name] = pid

    def _compose(self, points: list) -> Snapshot:
        report, plan = self.report, self.session.plan
        version = report.get("version", 0)
        generation = min(version, plan.num_versions - 1)
        clips = self.evaluator.get("clips", {}) or self._stored_clips()
        steps = sum(plan.steps_of(g.k) for g in plan.generations)
        return Snapshot(
            time=time.time(),
            started_at=self.started_at - report.get("earlier_seconds", 0.0),
            run_dir=self.session.run_dir,
            stage=plan.stage_of(generation).name,
            version=version,
            num_versions=plan.num_versions,
            generation=generation,
            tickets=report.get("tickets", {"open": plan.num_tickets}),
            segment=report.get("segment", 0),
            clips_generated=report.get("clips_generated", 0),
            clips_per_minute=report.get("clips_per_minute", 0.0),
            failures=report.get("failures", {}),
            restarts={**self.restarts, **{k: n for k, n in report.get("restarts", {}).items() if n}},
            buffer_rollouts=report.get("buffer_rollouts", 0),
            buffer_bytes=report.get("buffer_bytes", 0),
            oldest_rollout_seconds=report.get("oldest_rollout_seconds"),
            staleness_now=report.get("staleness_now"),
            pools=self._pools(),
            trainer_state=report.get("trainer_state", "starting"),
            train_step=max([self.last_step, plan.steps_before(version) if version < plan.num_versions else steps]),
            train_steps_total=steps,
            cohorts=tuple(report.get("cohorts", ())),
            train=tuple(points),
            evaluations=tuple(self._results()),
            weight_sync_seconds=self.store.get("sync", {}),
            clips=clips,
            messages=self._messages(),
            eta_seconds=self._eta(report),
            storage=replace(
                self.storage.now, rollouts=report.get("rollout_bytes"), clips=self.evaluator.get("clip_bytes")
            ),
        )

    def _pools(self) -> dict[str, PoolStats]:
        busy, items = self.report.get("busy", {}), self.report.get("items", {})
        sizes = {**self._sizes(), "trainer": 1, "evaluator": 1}
        return {
            role: PoolStats(size, items.get(role, 0), min(1.0, busy.get(role, 0.0) / size))
            for role, size in sizes.items()
        }

    def _sizes(self) -> dict[str, int]:
        """Actors of the sampler and scorer pools now."""
        config = self.session.config
        configured = {"sampler": config.sampler, **config.scorer.all_pools}
        return self.report.get("sizes") or {name: role.num_actors for name, role in configured.items()}

    def _eta(self, report: dict) -> float | None:
        """Seconds left: generations still to close, at the pace of those that closed in this start."""
        closed = [c.closed_at for c in report.get("cohorts", ()) if c.closed_at > self.started_at]
        left = self.session.plan.num_versions - report.get("version", 0)
        if len(closed) < 2:
            return None
        return left * (closed[-1] - closed[0]) / (len(closed) - 1)

    def _stored_results(self) -> list[EvaluationResult]:
        from rlloop.recipes.evaluations import stored_results

        return stored_results(self.session.path)

    def _stored_clips(self) -> dict[str, MomentClip]:
        from rlloop.recipes.moment import read_moment

        return read_moment(self.session.path)
