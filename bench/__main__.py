"""All benches of the loop, one after the other, into bench/results.md: `make bench`, an hour on an idle machine.

    python -m bench                             all of them
    python -m bench --only publish selection    some; the others' sections stay

Each is a command of its own with settings of its own: python -m bench.publish --help.
"""

from __future__ import annotations

import argparse
import importlib
import sys

BENCHES = {
    "sampling": "clips a second in one batch against one by one, and what each setting gains",
    "scoring": "scores a second likewise",
    "throughput": "the loop with stand-ins at 1, 8 and 64 samplers against the ideal",
    "overlap": "asynchronous against synchronous",
    "publish": "weights to the last of four samplers against a bare put and gets",
    "selection": "commits and top-decile queries at 10^4 to 10^6 rollouts",
    "scaling": "rlloop scale until all actors of the new size work",
    "startup": "the default run to its first clip and step; what metrics and ledger cost",
}


def main(given: list[str]) -> int:
    epilog = "\n".join(f"  {name:12}{what}" for name, what in BENCHES.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(BENCHES), default=list(BENCHES))
    failed = []
    for name in parser.parse_args(given).only:
        print(f"== {name}: {BENCHES[name]}", flush=True)
        try:
            importlib.import_module(f"bench.{name}").main([])
        except Exception as error:  # the others still count
            failed.append(name)
            print(f"{name} failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
