"""Stands in for a run: writes what it hears, and takes a moment to checkpoint after a signal."""

import os
import signal
import sys
import time

heard = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: heard.append(signal.Signals(number).name))
print("joins", os.environ.get("RAY_JOB_ID") or os.environ.get("RAY_ADDRESS") or "no Ray", flush=True)
began = time.monotonic()
while time.monotonic() - began < float(sys.argv[1]) and not heard:
    time.sleep(0.1)
if heard:
    time.sleep(15.0)  # longer than Tune waits for a trial that it ends itself
    print("checkpointed after", *heard, flush=True)
sys.exit(143 if heard else int(sys.argv[2]))
