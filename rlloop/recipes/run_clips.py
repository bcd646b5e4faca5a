"""The clips of a report: which there are, what they scored, and which of them are compared in the blind."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from rlloop.config import Config
from rlloop.data.rollouts import read_rows, rollout_path
from rlloop.loop.ledger import Ledger
from rlloop.loop.plan import prompt_index
from rlloop.loop.snapshot import EvaluationResult
from rlloop.recipes.clip_embedding import MAX_AUDIO_BYTES, embed, with_audio
from rlloop.recipes.cohort import cohort_candidates
from rlloop.views.report.record import Listening, Pair, RunRecord, ShownClip

MAX_VERSIONS = 8  # with clips of each prompt
MAX_PAIRS = 24  # about ten minutes of listening
EXTREMES = ("best", "median", "worst")
CLIP_NAME = re.compile(r"version(\d+)-prompt(\d+)\.\w+$")


def one_run(record: RunRecord, ledger: Ledger, max_bytes: int = MAX_AUDIO_BYTES) -> Listening:
    """Extremes of the newest cohort, the held-out clips over versions, and version 0 against the last in the blind."""
    folder = Path(record.folder)
    extremes, extremes_note = cohort_clips(record, ledger)
    held_out = heldout_clips(record)
    needed = [*extremes, *(clip for clips in held_out for clip in (clips[0], clips[-1]))]
    between = [clip for clips in held_out for clip in clips[1:-1]]
    stored, note = embed([(folder, clip) for clip in [*needed, *between]], max_bytes)
    rows = [[stored[clip.key] for clip in clips] for clips in held_out]
    pairs = blind_pairs(rows, record)
    return Listening([stored[clip.key] for clip in extremes], extremes_note, rows, pairs, note)


def two_runs(a: RunRecord, b: RunRecord) -> Listening:
    """The last evaluated versions of both on the prompts and seeds that both have."""
    of_a, of_b = ({(clips[-1].prompt, clips[-1].seed): clips[-1] for clips in heldout_clips(run)} for run in (a, b))
    shared = [key for key in of_a if key in of_b]
    clips = [
        (replace(of_a[key], key=f"a-{of_a[key].key}"), replace(of_b[key], key=f"b-{of_b[key].key}")) for key in shared
    ]
    folders = (Path(a.folder), Path(b.folder))
    stored, note = embed([(folder, clip) for pair in clips for folder, clip in zip(folders, pair, strict=True)])
    rows = [[stored[one.key], stored[other.key]] for one, other in clips]
    titled = [
        [replace(clip, title=f"{name}, version {clip.version}") for clip, name in zip(row, "AB", strict=True)]
        for row in rows
    ]
    pairs = [
        Pair(one, other, f"A {a.name} version {one.version}", f"B {b.name} version {other.version}", a.folder, b.folder)
        for one, other in rows
        if one.data and other.data
    ]
    return Listening([], "", titled, shuffled(pairs, a.config.seed), note)


def heldout_clips(record: RunRecord) -> list[list[ShownClip]]:
    """A list a held-out prompt: its clip of each shown version that kept one; the seed is the prompt's first."""
    rows: dict[int, list[ShownClip]] = {}
    for result in shown_evaluations(record):
        for path in result.audio:
            named = CLIP_NAME.search(path)
            if named and int(named[2]) < len(result.prompts):
                number = int(named[2])
                rows.setdefault(number, []).append(_heldout(result, number, path))
    return [rows[number] for number in sorted(rows)]


def shown_evaluations(record: RunRecord) -> list[EvaluationResult]:
    """Those with audio: version 0, the ends of stages and the last, then evenly between, at most MAX_VERSIONS of a run
    of fewer stages than that."""
    heard = [result for result in record.evaluations if result.audio]
    ends = {0, *(last for _, _, last in record.stages), *(one.version for one in heard[-1:])}
    between = [result.version for result in heard if result.version not in ends]
    room = max(0, MAX_VERSIONS - sum(result.version in ends for result in heard))
    chosen = {between[int(n)] for n in np.linspace(0, len(between) - 1, min(room, len(between)))}
    return [result for result in heard if result.version in ends | chosen]


def _heldout(result: EvaluationResult, number: int, path: str) -> ShownClip:
    scores = {name: values[number][0] for name, values in result.scores.items()}
    key = f"v{result.version}-p{number}"
    prompt, seed = result.prompts[number], result.seeds[number][0]
    return ShownClip(key, f"version {result.version}", path, prompt, seed, result.version, scores)


def cohort_clips(record: RunRecord, ledger: Ledger) -> tuple[list[ShownClip], str]:
    """Best, median and worst rollout of the newest selected cohort, and a sentence on what they are."""
    newest = max((k for k in ledger.selections if ledger.plan.generations[k].tickets), default=None)
    if newest is None:
        return [], "No cohort was closed, so no rollout was ranked."
    folder, config, prompts = Path(record.folder), record.config, record.training_prompts
    stage = ledger.plan.stage_of(newest)
    ranked = cohort_candidates(ledger, newest, stage)
    if not ranked:
        return [], f"No rollout of cohort {newest} has a score."
    clips = []
    for name, one in zip(EXTREMES, (ranked[0], ranked[len(ranked) // 2], ranked[-1]), strict=True):
        ticket = ledger.tickets[one.ticket]
        rollout = next(found for found in ticket.rollouts if found.clip == one.clip)
        prompt = prompts[prompt_index(config.seed, one.ticket, len(prompts))] if prompts else "(prompt not kept)"
        path = f"audio/generation{newest:06d}-{name}.flac"
        clips.append(ShownClip(name, name, path, prompt, rollout.seed, ticket.version or 0, rollout.scores))
        if not (folder / path).is_file():
            clips[-1] = _decoded(folder, config, clips[-1], one.ticket, one.clip)
    by = " + ".join(name if weight == 1 else f"{weight:g} × {name}" for name, weight in stage.selection.rank_by.items())
    blended = " as z-scores within the cohort" if len(stage.selection.rank_by) > 1 else ""
    return clips, f"Of {len(ranked)} scored rollouts of cohort {newest} ({stage.name}), ranked by {by}{blended}."


def _decoded(folder: Path, config: Config, clip: ShownClip, ticket: int, number: int) -> ShownClip:
    """A clip whose audio the run did not keep: decoded from its latents where they are there and the bundled stack made
    them, else without audio and with the reason. The official stack takes gigabytes of weights, which a report does not
    load."""
    path = rollout_path(folder, ticket)
    if config.generator.target != "mini" or not path.is_file():
        return replace(clip, missing="the run did not keep its audio")
    try:
        return with_audio(clip, _decode(path, config, number), "audio/flac")
    except Exception as error:  # a damaged file, or whatever a generator raises: one clip is not worth the page
        said = " ".join(f"{error or type(error).__name__}".split())
        return replace(clip, missing=f"the run did not keep its audio, and it cannot be decoded: {said[:300]}")


def _decode(path: Path, config: Config, number: int) -> bytes:
    """FLAC of one clip of a rollout file."""
    from rlloop.recipes.sampler import Sampler

    latents = np.asarray(read_rows(path, {number: ""}, "")[0].latents)
    sampler = Sampler(config, config.evaluation)
    flac = io.BytesIO()
    audio = np.clip(sampler.decode(latents[None])[0], -1, 1)
    soundfile.write(flac, audio, sampler.generator.sample_rate_hz, format="FLAC", subtype="PCM_16")
    return flac.getvalue()


def blind_pairs(rows: Iterable[Sequence[ShownClip]], record: RunRecord) -> list[Pair]:
    """Version 0 against the last of every prompt, then versions that follow each other; the first MAX_PAIRS of them in
    a seeded order, sides drawn too."""
    heard = [[clip for clip in row if clip.data] for row in rows]
    heard = [row for row in heard if len(row) > 1]
    ends = [(row[0], row[-1]) for row in heard]
    steps = [pair for row in heard if len(row) > 2 for pair in zip(row, row[1:], strict=False)]
    pairs = [
        Pair(a, b, f"version {a.version}", f"version {b.version}", record.folder, record.folder)
        for a, b in [*ends, *steps][:MAX_PAIRS]
    ]
    return shuffled(pairs, record.config.seed)


def shuffled(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """A seeded order of pairs and of their sides."""
    random = np.random.default_rng([seed, len(pairs)])
    order, sides = random.permutation(len(pairs)), random.integers(2, size=len(pairs))
    return [turned(pairs[n]) if side else pairs[n] for n, side in zip(order, sides, strict=True)]


def turned(pair: Pair) -> Pair:
    return Pair(pair.b, pair.a, pair.system_b, pair.system_a, pair.run_b, pair.run_a)
