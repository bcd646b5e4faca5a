"""Tests that start Ray are one group: with `-n 2 --dist loadgroup` one process has them, in turn, another the units."""

from pathlib import Path

import pytest

STARTS_RAY = {"ray", "e2e"}


def pytest_collection_modifyitems(config, items):
    if not hasattr(config, "workerinput"):  # not in one of several processes
        return
    for item in items:
        if Path(item.path).parent.name in STARTS_RAY:
            item.add_marker(pytest.mark.xdist_group("ray"))
