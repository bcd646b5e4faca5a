"""TensorBoard: reward curves, gauges and the clips to listen to, each point exactly once, also over a resume."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

from rlloop.config import Config
from rlloop.loop.plan import Plan
from rlloop.loop.snapshot import CohortStats, EvaluationResult, Snapshot, TrainPoint
from rlloop.views.decomposition import WITHIN_RUN, markdown, run_grid
from rlloop.views.event_log import EventLog
from rlloop.views.run_decomposition import run_decomposition
from rlloop.views.scores import evaluation_labels, is_number, mean_score, score_label
from rlloop.views.tags import AUDIO, LAYOUT, SCALARS, TEXT
from rlloop.views.tensorboard_layout import caption_table, comparison_values, layout_value, plain

log = logging.getLogger(__name__)
GAUGE_EVERY_S = 5
GAUGE_SHARE = 2000  # after hours at this share of the run so far: the points of weeks are few times those of a day
KEPT_SYNCS = 1000


@dataclass
class Written:
    """How far each kind of point has been written; kept beside the event files."""

    began: float | None = None  # unix seconds of the first snapshot: gauges count from here
    gauge_second: int = -GAUGE_EVERY_S
    update: int = 0
    generation: int = -1
    evaluations: list[int] = field(default_factory=list)
    synced: list[int] = field(default_factory=list)
    stages: int = 0  # rows of the decomposition, the baseline is one
    has_texts: bool = False
    has_layout: bool = False

    @classmethod
    def of(cls, state: dict[str, Any]) -> Written:
        """What an event log kept; a name that is no longer one is passed over."""
        return cls(**{one.name: state[one.name] for one in fields(cls) if one.name in state})


class RunWriter:
    """Writes what is new in a snapshot below `run_dir/tensorboard`: opened -> write* -> closed.

    Only one may be open on a run directory. A process that is killed leaves at most points that the next one cuts off
    and writes again.

    Args:
        run_dir: a local folder; clips are read from it (flac or wav).
        config: the resolved configuration, shown as text; default: the one stored in run_dir.
    """

    def __init__(self, run_dir: str | Path, config: Config | None = None) -> None:
        self.run_dir = Path(run_dir)
        self.config = config or Config.model_validate_json((self.run_dir / "config.json").read_text())
        self.stage_ends = Plan.from_config(self.config).required_versions()
        self.events = EventLog(self.run_dir / "tensorboard", self.config.limits.audio)
        self.written = Written.of(self.events.state)

    def write(self, snapshot: Snapshot) -> None:
        """Adds the points that were not written yet, and flushes if there were any."""
        before = self.events.num_points
        self._texts(snapshot.time)
        for cohort in snapshot.cohorts:
            self._cohort(cohort, snapshot)
        seen = set(self.written.evaluations)
        for evaluation in snapshot.evaluations:
            if evaluation.version not in seen:
                self._evaluation(evaluation, snapshot)
        self._stages(snapshot)
        for point in snapshot.train:
            self._train(point)
        for version, seconds in snapshot.weight_sync_seconds.items():
            if version not in self.written.synced:
                self._scalar("sync/seconds", seconds, version, snapshot.time)
                self.written.synced = [*self.written.synced, version][-KEPT_SYNCS:]
        self._gauges(snapshot)
        if self.events.num_points > before:
            self.events.commit(vars(self.written))

    def close(self) -> None:
        self.events.close()

    def _scalar(self, tag: str, value: float | None, step: int, time: float, **names: str) -> None:
        assert tag in SCALARS, tag
        if is_number(value):
            self.events.scalar(tag.format(**names), value, step, time)

    def _texts(self, time: float) -> None:
        if not self.written.has_texts:
            resolved = yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False)
            self._text("configuration", "\n".join(f"    {line}" for line in resolved.splitlines()), time)
            self.written.has_texts = True
        if not self.written.has_layout:
            for value in (layout_value(self.config), *comparison_values(self.config, time)):
                assert value.tag in LAYOUT, value.tag
                self.events.add(value, 0, time)
            self.written.has_layout = True

    def _text(self, tag: str, markdown: str, time: float, step: int = 0) -> None:
        assert tag in TEXT, tag
        self.events.text(tag, markdown, step, time)

    def _cohort(self, cohort: CohortStats, snapshot: Snapshot) -> None:
        if cohort.generation <= self.written.generation:
            return
        step, time = cohort.generation, cohort.closed_at
        for name in ("mean", "top", "std"):
            self._scalar(f"reward/cohort_{name}", cohort.reward.get(name), step, time)
        for score, value in cohort.scores.items():
            self._scalar("cohort/{score}", value, step, time, score=score)
        for version, value in rewards_now_known(snapshot, cohort.generation, self.config.loop.max_staleness).items():
            self._scalar("reward/policy_mean", value, version, time)
        self._scalar("cohort/missing", sum(cohort.missing.values()), step, time)
        self._scalar("staleness/mean", cohort.staleness_mean, step, time)
        self._scalar("staleness/max", cohort.staleness_max, step, time)
        self.written.generation = cohort.generation

    def _evaluation(self, evaluation: EvaluationResult, snapshot: Snapshot) -> None:
        version, time = evaluation.version, evaluation.finished_at
        self._scalar("reward/heldout", mean_score(evaluation, score_label(self.config)), version, time)
        for score in evaluation_labels(self.config):
            self._scalar("heldout/{score}", mean_score(evaluation, score), version, time, score=score)
        for name, distance in evaluation.distances.items():
            self._scalar("heldout/{score}", distance["value"], version, time, score=name)
        judges = {found["judge"] for found in evaluation.alarms}  # one may have been found out over two spans
        self._scalar("alarm/raised", float(len(judges)), version, time)
        if evaluation.alarms:
            self._text("alarm", "\n\n".join(found["text"] for found in evaluation.alarms), time, version)
        self._clips(evaluation, snapshot)
        self.written.evaluations.append(version)

    def _clips(self, evaluation: EvaluationResult, snapshot: Snapshot) -> None:
        """The held-out clips and those of the moment, with one table of what they are."""
        version, time = evaluation.version, evaluation.finished_at
        rows = []
        for number, path in enumerate(evaluation.audio):  # the first seed of each of the first prompts
            prompt, seed = evaluation.prompts[number], evaluation.seeds[number][0]
            scores = {name: values[number][0] for name, values in evaluation.scores.items()}
            name, caption = f"held-out {number}: {prompt}", f"seed {seed}; scores of each version: text audio/captions"
            self._audio("audio/heldout_{number}", path, version, time, name, caption, number=number)
            rows.append((f"heldout_{number}", prompt, seed, version, scores))
        for place, clip in snapshot.clips.items():
            caption = f"the {place} rollout of the newest cohort; what it is at each step: text audio/captions"
            self._audio(f"audio/{place}", clip.path, version, time, place, caption)
            rows.append((place, clip.prompt, clip.seed, clip.version, clip.scores))
        if rows:
            self._text("audio/captions", caption_table(rows), time, version)

    def _stages(self, snapshot: Snapshot) -> None:
        """Stages whose evaluation has come, in order: a stage is never written before the one that it is over."""
        results = {evaluation.version: evaluation for evaluation in snapshot.evaluations}
        while self.written.stages < len(self.stage_ends) and self.stage_ends[self.written.stages] in results:
            number = self.written.stages
            version = self.stage_ends[number]
            found = run_decomposition(self.config, [results[end] for end in self.stage_ends[: number + 1]])
            time = results[version].finished_at
            for row in (row for row in found.rows if row["version"] == version):
                for name, cell in (row["scores"] | row["distances"]).items():
                    value = cell["value"] if name in row["distances"] else cell["mean"]
                    self._scalar("decomposition/{score}", value, number, time, score=name)
                    self._scalar("decomposition_gain/{score}", cell["gain"], number, time, score=name)
            self._text("decomposition", f"{markdown(run_grid(found.rows))}\n\n{WITHIN_RUN}", time, number)
            self.written.stages += 1

    def _audio(self, tag: str, path: str, version: int, time: float, name: str, caption: str, **names: Any) -> None:
        assert tag in AUDIO, tag
        try:
            samples, sample_rate_hz = soundfile.read(self.run_dir / path, dtype="float32", always_2d=True)
        except (OSError, soundfile.LibsndfileError) as error:
            log.warning("tensorboard: %s of version %d has no clip to show: %s", tag.format(**names), version, error)
            return
        mono = np.clip(samples.mean(axis=1), -1.0, 1.0)
        self.events.audio(tag.format(**names), mono, sample_rate_hz, version, time, plain(name), plain(caption))

    def _train(self, point: TrainPoint) -> None:
        # A trainer that restarts from a checkpoint repeats updates; their first report stands.
        if point.step <= self.written.update:
            return
        for name in ("loss", "grad_norm", "learning_rate", "seconds"):
            self._scalar(f"train/{name}", getattr(point, name), point.step, point.time)
        for name, value in point.metrics.items():
            self._scalar("train/{metric}", value, point.step, point.time, metric=name)
        self.written.update = point.step

    def _gauges(self, snapshot: Snapshot) -> None:
        if self.written.began is None:
            self.written.began = snapshot.time
        second, time = int(snapshot.time - self.written.began), snapshot.time
        if second < self.written.gauge_second + max(GAUGE_EVERY_S, self.written.gauge_second // GAUGE_SHARE):
            return
        for name, pool in snapshot.pools.items():
            self._scalar("pools/{pool}_actors", pool.num_actors, second, time, pool=name)
            if pool.busy_share is not None:
                self._scalar("pools/{pool}_busy", pool.busy_share, second, time, pool=name)
                self._scalar("pools/{pool}_idle", 1 - pool.busy_share, second, time, pool=name)
        self._scalar("buffer/rollouts", snapshot.buffer_rollouts, second, time)
        self._scalar("buffer/bytes", snapshot.buffer_bytes, second, time)
        self._scalar("buffer/oldest_seconds", snapshot.oldest_rollout_seconds, second, time)
        for kind, value in vars(snapshot.storage).items():
            if kind != "object_store_limit":
                self._scalar("storage/{kind}_bytes", value, second, time, kind=kind)
        self._scalar("speed/clips_per_minute", snapshot.clips_per_minute, second, time)
        self.written.gauge_second = second


def rewards_now_known(snapshot: Snapshot, generation: int, max_staleness: int) -> dict[int, float]:
    """Mean reward of the policy versions that no cohort after `generation` can have used, but this one still could.

    That is version generation - max_staleness, and with the last cohort all versions after it.
    """
    is_last = generation == snapshot.num_versions - 1
    last = generation if is_last else generation - max_staleness
    known = {}
    for version in range(max(0, generation - max_staleness), last + 1):
        parts = [c.reward_by_version[version] for c in snapshot.cohorts if version in c.reward_by_version]
        if parts:
            known[version] = sum(value * n for value, n in parts) / sum(n for _, n in parts)
    return known
