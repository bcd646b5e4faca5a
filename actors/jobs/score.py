"""The scoring job: clip files -> reward actors -> one JSON line a clip, kept as it comes."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.jobs.pool import Pool, run_pool, start
from rlloop.config import Config, RewardEntry, resolve_rewards, score_name
from rlloop.recipes.clip_files import ClipFile, ScoreLine, claim, resume, write_lines
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
    out.parent.mkdir(parents=True, exist_ok=True)
    claim(out, digest(clips, rewards, config))
    done = resume(out, names)
    resumed = sum((clip.path, clip.prompt) in done for clip in clips)
    todo = [clip for clip in dict.fromkeys(clips) if (clip.path, clip.prompt) not in done]
    for clip in [clip for clip in todo if not is_unicode(clip)]:
        reasons = dict.fromkeys(names, "its name or prompt is no Unicode text; rename it")
        done[clip.path, clip.prompt] = ScoreLine(clip.path, clip.prompt, dict.fromkeys(names), reasons)
        todo.remove(clip)
    view.total = len(todo)
    write_lines(out, list(done.values()))
    if todo:
        view.phase("starting Ray and loading the rewards")
        start()
        with out.open("a", encoding="utf-8") as file:
            args = (config, list(rewards), batch, pool.threads, pool.device)
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


def digest(clips: Sequence[ClipFile], rewards: Sequence[str | RewardEntry], config: Config) -> str:
    """What a scores file is of: where the clips lie, and the rewards with their options."""
    folders = sorted({str(Path(clip.file).parent) for clip in clips})
    meant = [reward.model_dump(mode="json") for reward in resolve_rewards(rewards, config)]
    return hashlib.sha256(json.dumps([folders, meant]).encode()).hexdigest()


def is_unicode(clip: ClipFile) -> bool:
    """Whether path and prompt can travel: a file name of other bytes cannot."""
    try:
        return bool((clip.file + clip.prompt).encode())
    except UnicodeEncodeError:
        return False
