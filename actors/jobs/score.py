"""The scoring job: clip files -> reward actors -> one JSON line a clip, kept as it comes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.jobs.pool import Pool, run_pool, start
from rlloop.config import Config, RewardEntry, score_name
from rlloop.recipes.clip_files import ClipFile, ScoreLine, resume, write_lines
from rlloop.recipes.clip_scoring import ScoreWorker
from rlloop.views.progress import JobProgress


@dataclass(frozen=True)
class Summary:
    """`missing` counts the clips that lack a score, by reason; `seconds` with start-up."""

    clips: int
    resumed: int
    missing: dict[str, int]
    seconds: float


def score_clips(
    clips: Sequence[ClipFile],
    rewards: Sequence[str | RewardEntry],
    config: Config,
    out: Path,
    batch: int,
    pool: Pool,
    view: JobProgress,
) -> Summary:
    """Scores what `out` lacks and leaves it with one line a clip, in the order of `clips`.

    A stopped job leaves the lines it has made; the same call goes on with them.
    """
    began = time.monotonic()
    names = [score_name(reward) for reward in rewards]
    done = resume(out, names)
    todo = [clip for clip in dict.fromkeys(clips) if (clip.path, clip.prompt) not in done]
    resumed = len(clips) - len(todo)
    view.total = len(todo)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_lines(out, list(done.values()))
    if todo:
        view.phase("starting Ray and loading the rewards")
        start()
        with out.open("a", encoding="utf-8") as file:
            args = (config, list(rewards), pool.threads, pool.device)
            for found in run_pool(ScoreWorker, args, [asdict(clip) for clip in todo], batch, pool):
                line = ScoreLine(**found)
                done[line.path, line.prompt] = line
                file.write(line.to_json() + "\n")
                file.flush()
                view.advance(1, int(any(value is None for value in line.scores.values())))
    lines = [done[clip.path, clip.prompt] for clip in clips]
    write_lines(out, lines)
    missing = Counter(reason for line in lines for reason in set(line.reasons.values()))
    return Summary(len(clips), resumed, dict(missing), time.monotonic() - began)
