"""One undisturbed synchronous run that the others are compared with."""

import pytest

from tests.ray import runs

SYNCHRONOUS = "loop.max_staleness=0"


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """(run directory, summary) of the undisturbed synchronous run."""
    run_dir = tmp_path_factory.mktemp("reference") / "run"
    return run_dir, runs.run(run_dir, SYNCHRONOUS)
