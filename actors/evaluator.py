"""Evaluator: a named actor that samples and scores fixed held-out (prompt, seed) pairs with a pinned version.

It uses the same Sampler and Scorer outside the stream; its rollouts never enter the buffer. Results are files, one a
version, so they are idempotent and survive everything. It also decodes the best, the median and the worst rollout to
listen to.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import replace

from actors.session import Session
from actors.store import WeightsLost, fetch_arrays
from rlloop.loop import stacks
from rlloop.loop.snapshot import EvaluationResult, MomentClip
from rlloop.recipes.evaluations import stored_results
from rlloop.recipes.kept_clips import best_version, keep_versions, remove_old_clips
from rlloop.recipes.result_feed import results_after

log = logging.getLogger(__name__)


class Evaluator:
    """Life: loading -> (evaluating | listening | idle) until the driver ends it. The loop is a thread of __init__."""

    def __init__(self, session: Session) -> None:
        self.session, self.config = session, session.config
        stacks.register(session.path, "evaluator")
        self.state, self.error = "loading", ""
        self.extremes: tuple | None = None
        self.clips: dict[str, MomentClip] = {}
        self.clip_bytes = 0
        self.results: list[EvaluationResult] = []  # in the order in which they came
        self.best: int | None = None
        self.thread = threading.Thread(target=self._run, name="evaluator", daemon=True)
        self.thread.start()

    def status(self, so_far: tuple[int, int]) -> dict:
        """The results that a reader lacks who has `so_far`, what it does now, and the clips of the moment."""
        return {
            "pid": os.getpid(),
            "state": self.state,
            "error": self.error,
            "results": results_after(self.results, os.getpid(), so_far),
            "missing": self._missing(),
            "clips": dict(self.clips),
            "clip_bytes": self.clip_bytes,
        }

    def _missing(self) -> list[int]:
        """Required versions without a stored result."""
        stored = {result.version for result in self.results}
        return [version for version in self.session.plan.required_versions() if version not in stored]

    def _run(self) -> None:
        from rlloop.recipes.build import load_target
        from rlloop.recipes.judges import SetJudges
        from rlloop.recipes.scorer import Scorer

        try:
            self.results = stored_results(self.session.path)
            self.best = best_version(self.results, self.config.headline_score)
            self.prompts = self.session.prompts["heldout"]
            self.sampler = load_target(self.config.sampler.target)(self.config, self.config.evaluation)
            role = self.config.evaluation
            self.scorer = Scorer(self.config, role.scores, role.threads, has_gpu=role.num_gpus > 0)
            self.judges = SetJudges(self.config)
            while True:
                version = self._next_version()
                if version is not None:
                    self.state = f"evaluating version {version}"
                    self._try(version)
                self.state = "idle"
                self._listen()
                time.sleep(0.5)
        except Exception as error:
            self.error = f"evaluator: {type(error).__name__}: {error}"
            log.exception("evaluator ended")

    def _next_version(self) -> int | None:
        """The lowest required version that is published and not stored; else the newest one, if configured."""
        from rlloop.recipes.evaluations import next_version

        newest = self.session.call("evaluator", "store", "newest")
        stored = {result.version for result in self.results}
        required = self.session.plan.required_versions()
        return next_version(newest, stored, required, self.config.evaluation.in_between)

    def _try(self, version: int) -> None:
        """Evaluates a version; whose weights were lost on the way is tried again in the next round."""
        try:
            self._evaluate(version)
        except WeightsLost as error:
            self.session.note(f"{error}; tried again")

    def _evaluate(self, version: int) -> None:
        from rlloop.recipes.evaluations import evaluate, write_result
        from rlloop.recipes.judges import alarms

        began = time.time()
        keep_versions(self.session.path, {self.best, version})
        _, arrays = fetch_arrays(self.session, "evaluator", version)
        self.sampler.load(arrays, version, self.session.plan.variant_of(version))

        def progress(done: int, total: int, seconds: float) -> None:
            self.state = f"evaluating version {version}: {done} of {total} clips"
            self.session.tell("buffer", "add_busy", "evaluator", seconds)

        stage = self.session.plan.stage_of(max(0, version - 1)).name
        path = self.session.path
        result = evaluate(
            self.sampler, self.scorer, self.prompts, self.config, path, version, stage, progress, self.judges
        )
        earlier = sorted((one for one in self.results if one.version < version), key=lambda one: one.version)
        history = [*earlier, result]
        found = alarms(self.config, path, history, num_planned=self.session.plan.num_versions + 1)
        result = replace(result, alarms=found, seconds=time.time() - began)
        write_result(path, result)
        self.results.append(result)
        self.best = best_version(sorted(self.results, key=lambda one: one.version), self.config.headline_score)
        keep_versions(path, {self.best})
        self._remove_clips(version)

    def _remove_clips(self, newest: int) -> None:
        """Keeps audio/ below limits.audio; what is listened to most stays."""
        versions = {*self.session.plan.required_versions(), self.best, newest} - {None}
        names = [clip.path for clip in self.clips.values()]
        self.clip_bytes = remove_old_clips(self.session.path, self.config.limits.audio, versions, names)

    def _listen(self) -> None:
        """Decodes the best, the median and the worst rollout of the newest cohort."""
        from rlloop.recipes.moment import decode_extremes, write_moment

        found = self.session.call("evaluator", "buffer", "extremes")
        if found is None or found == self.extremes:
            return
        k, *keys = found
        rate = self.sampler.generator.sample_rate_hz
        self.clips |= decode_extremes(self.session.path, k, keys, self.sampler.decode, rate)
        write_moment(self.session.path, self.clips)
        self.extremes = found
        self._remove_clips(max((result.version for result in self.results), default=0))
