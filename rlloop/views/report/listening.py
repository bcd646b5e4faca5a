"""Clips with players, the same prompt and seed side by side, and the blind test."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from rlloop.views.report.markup import Html, data_block, folded, section, tag
from rlloop.views.report.record import Listening, ShownClip
from rlloop.views.report.wording import score

NO_PLAYERS = "On paper there are no players; the clips lie in the run under the names that stand below them."


def extremes(found: Listening) -> Html:
    clips = tag("div", *(player(clip) for clip in found.extremes), class_="clips")
    return section("extremes", "Best, median and worst", tag("p", found.extremes_note), clips)


def before_and_after(found: Listening, title: str = "Before and after, same prompt and seed") -> Html:
    """A row a prompt: the first and the last side by side, the versions between them folded."""
    if not found.held_out:
        return section("clips", title, tag("p", "No clip of a held-out prompt was kept."))
    rows = [_row(clips) for clips in found.held_out]
    note = tag("p", f"{found.note} Each is the first seed of its prompt, not a chosen one.", class_="note")
    return section("clips", title, *rows, note, tag("p", NO_PLAYERS, class_="note only-print"))


def _row(clips: Sequence[ShownClip]) -> Html:
    ends = [clips[0], clips[-1]] if len(clips) > 1 else [clips[0]]
    between = clips[1:-1]
    heading = tag("h3", clips[0].prompt, class_="prompt")
    inner = [folded(f"{len(between)} in between", tag("div", *map(player, between), class_="clips"))] if between else []
    return tag(
        "article", heading, tag("div", *(player(clip, with_prompt=False) for clip in ends), class_="clips"), *inner
    )


def player(clip: ShownClip, with_prompt: bool = True) -> Html:
    """One clip: title, player, caption. Its audio stands in the page once; the blind test takes it from here."""
    name = f"{clip.title}: {clip.prompt}"
    sound = (
        tag("audio", controls=True, preload="metadata", src=clip.data, id=f"clip-{clip.key}", aria_label=name)
        if clip.data
        else tag("p", f"Not here: {clip.missing}.", class_="none")
    )
    scores = " · ".join(f"{key} {score(value)}" for key, value in clip.scores.items())
    said = [tag("span", clip.prompt, class_="line prompt")] if with_prompt else []
    said += [
        tag("span", f"version {clip.version}, seed {clip.seed}", class_="line"),
        tag("span", scores, class_="line"),
    ]
    said += [tag("span", clip.path, class_="line path")]
    return tag("figure", tag("p", clip.title, class_="clip-title"), sound, tag("figcaption", *said), class_="clip")


def blind_test(found: Listening, sources: dict[str, Any]) -> Html:
    """The form. Which version is which stands in the page's data alone, and is shown when the listener asks for it.

    The browser keeps votes under a key made of the clips in their order, so those on other clips are never taken.

    Args:
        sources: what every stored vote says of its origin.
    """
    if not found.pairs:
        text = "There are no two clips of one prompt and seed to compare yet."
        return section("blind", "Blind test", tag("p", text))
    pairs = [
        {
            "clips": [f"clip-{pair.a.key}", f"clip-{pair.b.key}"],
            "prompt": pair.a.prompt,
            "vote": {
                "prompt": pair.a.prompt,
                "seed": pair.a.seed,
                "system_a": pair.system_a,
                "system_b": pair.system_b,
                "audio_a": pair.a.path,
                "audio_b": pair.b.path,
                "sha256_a": pair.a.sha256,
                "sha256_b": pair.b.sha256,
                "run_a": pair.run_a,
                "run_b": pair.run_b,
                **sources,
            },
        }
        for pair in found.pairs
    ]
    heard = "\n".join(f"{pair.a.sha256} {pair.b.sha256}" for pair in found.pairs)
    data = {"key": hashlib.sha256(heard.encode()).hexdigest()[:16], "pairs": pairs}
    return section("blind", "Blind test", _explained(len(pairs)), _form(), data_block("blind-data", data))


def _explained(number: int) -> Html:
    return tag(
        "p",
        f"{number} pairs of one prompt and one noise seed, in a drawn order and on drawn sides. Listen to both, then "
        "say which you would rather hear. What was what is told when you ask for it.",
    )


def _form() -> Html:
    plays = [
        tag("button", f"Play {side}", type="button", class_="play", data_side=str(n), aria_keyshortcuts=side.lower())
        for n, side in enumerate("AB")
    ]
    votes = [
        tag("button", text, type="button", class_="vote", data_winner=winner, aria_keyshortcuts=short)
        for text, winner, short in (
            ("A is better", "model_a", "1"),
            ("No difference", "tie", "0"),
            ("B is better", "model_b", "2"),
        )
    ]
    keys = "Keys inside the test: a and b play, 1 is A, 2 is B, 0 is no difference."
    status = tag("p", id="blind-status", role="status", aria_live="polite")
    back = tag("button", "Back", type="button", id="blind-back")
    ahead = tag("button", "Skip", type="button", id="blind-next")
    save = tag("button", "Store votes", type="button", id="blind-save", class_="primary")
    reveal = tag("button", "Show what was what", type="button", id="blind-reveal")
    listener = tag(
        "label",
        "Your name, if you like ",
        tag("input", type="text", id="blind-listener", autocomplete="off", maxlength="60"),
    )
    return tag(
        "div",
        tag("p", id="blind-count", class_="kicker"),
        tag("h3", id="blind-prompt", class_="prompt", tabindex="-1"),
        tag("div", *plays, class_="buttons"),
        tag("div", *votes, class_="buttons", role="group", aria_label="Your preference"),
        status,
        tag("div", back, ahead, class_="buttons"),
        tag("div", listener, save, reveal, class_="buttons"),
        tag("p", keys, class_="note"),
        tag("div", id="blind-result", tabindex="-1"),
        id="blind-form",
        hidden=True,
    )
