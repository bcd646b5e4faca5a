"""The soak's own arithmetic: slopes of hand-made samples, roles of command lines."""

import numpy as np
import pytest

from bench.soak import Sample, closed_tickets, role_of, rows, slope


def test_the_slope_is_that_of_the_second_half():
    tickets = np.arange(0, 20_001, 1000.0)
    values = np.where(tickets < 10_000, tickets / 100, 100 + tickets / 1000 * 0.25)
    assert slope(tickets, values) == (pytest.approx(0.25), pytest.approx(0, abs=1e-9))
    noisy = slope(tickets, values + np.tile([1.0, -1.0], 11)[:21])
    assert abs(noisy[0] - 0.25) < 3 * noisy[1]


def test_a_role_that_was_there_for_a_moment_is_left_out_and_the_rest_is_summed():
    samples = [
        Sample(n, 1000 * n, {"driver": 2_000_000, "Buffer": 1_000_000 * n, **({"tmp": 5} if n == 3 else {})}, {}, {})
        for n in range(1, 9)
    ]
    found = rows(samples, "memory")
    assert [line.split(" | ")[0] for line in found] == ["| Buffer", "| driver", "| all of these"]
    assert found[0].endswith("| +1.000 ± 0.000 |") and found[1].endswith("| +0.000 ± 0.000 |")
    assert found[2].split(" | ")[1:5] == ["4.0", "6.0", "10.0", "10.0"]


@pytest.mark.parametrize(
    ("command", "role"),
    [
        (["python", "-m", "rlloop.main", "--config", "x"], "driver"),
        (["ray::Buffer.report"], "Buffer"),
        (["ray::MapWorker(MapBatches(SamplerStage)).submit"], "SamplerStage"),
        (["ray::RayTrainWorker.execute"], "RayTrainWorker"),
        (["ray::IDLE"], "IDLE"),
        (["/x/ray/core/src/ray/raylet/raylet", "--y=/ray/gcs"], "raylet"),
        (["/x/python", "-u", "/x/log_monitor.py"], "log_monitor"),
    ],
)
def test_processes_are_named_by_what_they_do(command, role):
    assert role_of(command) == role


def test_closed_tickets_are_those_of_the_newest_status_line(tmp_path):
    log = tmp_path / "log"
    assert closed_tickets(log) == 0
    log.write_text("[0:01] tickets 5/20, x\n[0:16] version 1/2, update 1/2, tickets 9/20, 3 clips/min\n")
    assert closed_tickets(log) == 9
