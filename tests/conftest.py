"""With `-n 2` one process has all tests that start Ray, in turn, and the other the units beside them."""

import pytest

STARTS_RAY = ("tests/ray/", "tests/e2e/")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class OneProcessHasRay(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "ray" if nodeid.startswith(STARTS_RAY) else nodeid

    return OneProcessHasRay(config, log)
