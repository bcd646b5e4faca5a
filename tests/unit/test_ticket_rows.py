"""Rows of the pools: what goes in comes out, whatever stands beside it in the block."""

import numpy as np
import pytest

from rlloop.data.ticket_rows import EMPTY, NO_TICKET, TicketRow, from_columns, to_columns

SAMPLED = TicketRow(
    7,
    2,
    5,
    prompt="eine Flöte, 🎵",
    sampler_s=0.5,
    rate_hz=16000,
    arrays={
        "seeds": np.array([2**62, 3], np.int64),
        "latents": np.arange(24, dtype=np.float16).reshape(2, 3, 4),
        "audio": np.zeros((2, 5), np.float32),  # its bytes end in zeros
    },
)


def same(a: TicketRow, b: TicketRow) -> bool:
    plain = [
        (row.ticket, row.version, row.slot, row.failure, row.prompt, row.sampler_s, row.rate_hz, row.judged)
        for row in (a, b)
    ]
    arrays = [{key: (x.dtype, x.shape, x.tobytes()) for key, x in row.arrays.items()} for row in (a, b)]
    return plain[0] == plain[1] and arrays[0] == arrays[1]


def test_rows_of_every_kind_share_a_block():
    rows = [SAMPLED, EMPTY, SAMPLED.failed("sampler: boom"), SAMPLED.without_audio(), TicketRow(3, 1)]
    columns = to_columns(rows)
    assert {len(column) for column in columns.values()} == {5}
    assert all(map(same, from_columns(columns), rows))


def test_pools_add_their_scores_and_the_buffer_takes_all():
    first = SAMPLED.with_scores("scorer", [{"a": 1.0}, {"a": None}], [{}, {"a": "a: silent"}], 0.25)
    row = first.with_scores("clap", [{"b": 2.0}, {"b": 3.0}], [{}, {}], 0.5)
    found = row.without_audio().scored()
    assert found.scores == [{"a": 1.0, "b": 2.0}, {"a": None, "b": 3.0}]
    assert found.reasons == [{}, {"a": "a: silent"}]
    assert found.worker_seconds == {"sampler": 0.5, "scorer": 0.25, "clap": 0.5}
    assert (found.ticket, found.policy_version, found.slot, found.seeds) == (
        7,
        2,
        5,
        [2**62, 3],
    ) and found.latents.shape == (2, 3, 4)


def test_a_pool_that_gives_another_number_of_scores_is_an_error():
    with pytest.raises(ValueError):
        SAMPLED.with_scores("scorer", [{"a": 1.0}], [{}, {}], 0.1)
    first = SAMPLED.with_scores("scorer", [{}] * 2, [{}] * 2, 0.1)
    with pytest.raises(ValueError):
        first.with_scores("clap", [{}] * 3, [{}] * 3, 0.1)


def test_what_has_no_clips_says_so():
    failed = SAMPLED.failed("boom")
    assert failed.scored().failure == "boom" and not failed.has_clips and not EMPTY.has_clips and SAMPLED.has_clips
    assert EMPTY.ticket == NO_TICKET
