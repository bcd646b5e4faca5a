"""When segments of the stream come to nothing too often: a rule on values, which the pump carries out."""

from __future__ import annotations

MAX_BARREN_SEGMENTS = 3


def barren_after(before: int, *, committed: int, failed: bool, was_cut: bool) -> int:
    """Segments in a row that came to nothing, after one more.

    One that was cut short, as `rlloop scale` does, proves nothing unless it failed: it may not have had the time for a
    first commit.

    Args:
        committed: tickets of the segment that were committed. failed: it ended by an exception.
    """
    if committed:
        return 0
    return before + (failed or not was_cut)
