"""The learning curve of a reward as it grows: JSON lines, TensorBoard, and a bar in the terminal."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from rlloop.recipes.head_training import Epoch
from rlloop.views.event_log import EventLog


class Curve:
    """Writes `curve.jsonl` and `tensorboard/` below a folder: entered -> of(seed) -> epochs* -> left."""

    def __init__(self, out_dir: Path, max_epochs: int):
        self.out_dir, self.max_epochs = out_dir, max_epochs
        self.bar = Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self.events: list[EventLog] = []

    def __enter__(self) -> Curve:
        shutil.rmtree(self.out_dir / "tensorboard", ignore_errors=True)  # what a training that was stopped left there
        self.lines = (self.out_dir / "curve.jsonl").open("w", encoding="utf-8")
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        self.lines.close()
        for events in self.events:
            events.close()

    def of(self, seed: int) -> Callable[[Epoch], None]:
        """What is to be called after every epoch of a seed."""
        task = self.bar.add_task(f"seed {seed}", total=self.max_epochs)
        events = EventLog(self.out_dir / "tensorboard" / f"seed_{seed}")
        self.events.append(events)
        best = float("inf")

        def on_epoch(epoch: Epoch) -> None:
            nonlocal best
            best = epoch.val_loss if epoch.is_better else best
            losses = {"train_loss": epoch.train_loss, "val_loss": epoch.val_loss}
            self.lines.write(json.dumps({"seed": seed, "epoch": epoch.number, **losses}) + "\n")
            self.lines.flush()
            for name, value in losses.items():
                events.scalar(f"reward_training/{name}", value, epoch.number, time.time())
            events.commit({"epoch": epoch.number})
            text = f"loss {epoch.train_loss:.4f}, validation {epoch.val_loss:.4f}, best {best:.4f}"
            self.bar.update(task, advance=1, description=f"seed {seed}: epoch {epoch.number}, {text}")

        return on_epoch
