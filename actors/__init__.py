"""The method on Ray: gate, pools, pump, buffer, policy store, trainer, evaluator."""

import os
import sys

from rlloop.loop.joining import prepare

if "ray" not in sys.modules:  # later it would no longer be read
    prepare(os.environ)
