"""Copier: a thread of the driver that keeps a run's copy up to date, and puts the last state of it at the end."""

from __future__ import annotations

import logging
import threading

from actors.session import Session
from rlloop.recipes.run_copy import RunCopy, Superseded

log = logging.getLogger(__name__)
IN_STORE = "copier, inside the store's client"


class Copier:
    """Life: started -> copying every `loop.copy_every_s` -> finished. Without a copy it does nothing.

    A store that does not answer costs the copy's age; a later start that writes the copy ends this one (`problem`).
    A thread that waits for the store is named IN_STORE: so would the end of the process, inside the store's client.
    """

    def __init__(self, session: Session, copy: RunCopy | None) -> None:
        self.session, self.copy, self.problem = session, copy, ""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="copier", daemon=True)
        if copy is not None:
            self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(self.session.config.loop.copy_every_s) and not self.problem:
            failed = self._update()
            if failed and not self._end.is_set():  # after Ray's end a call would start it
                self.session.note(f"the copy is older than it should be: {failed}")

    def _update(self) -> str:
        """Puts what is new; '' or why it could not be put."""
        assert self.copy is not None
        thread = threading.current_thread()
        name, thread.name = thread.name, IN_STORE
        try:
            self.copy.update(self.session.path, self.session.epoch, self.session.config.digest())
        except Superseded as error:
            self.problem = str(error)
        except (OSError, ValueError) as error:  # TimeoutError is an OSError, too
            return " ".join(str(error).split())[:300]
        finally:
            thread.name = name
        return ""

    def finish(self) -> str:
        """After the run's last file is written: puts it all. '' or one line about what the copy lacks."""
        if self.copy is None:
            return ""
        self._end.set()
        limit, found = self.session.config.loop.wait_timeout_s, ["no answer"]

        def last() -> None:
            self._thread.join()
            found[0] = self.problem or self._update() or self.problem

        thread = threading.Thread(target=last, name="last copy", daemon=True)
        thread.start()
        thread.join(limit)
        lacks = f"the driver waits for {self.copy.uri} since {limit:.0f} s" if thread.is_alive() else found[0]
        repeat = "" if self.problem else "; repeat the command to copy it"
        return lacks and f"the copy lacks the end of the run: {lacks}{repeat}"
