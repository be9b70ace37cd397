"""Runs the demo as a user does: by its script, in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "examples" / "basic" / "app.py"


class DemoProcess:
    """A running demo."""

    def __init__(self, log: Path, *arguments: str, **settings: str) -> None:
        self._log = log
        theirs = ("COGNITO_", "FLASK_")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(theirs)}
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, str(SCRIPT), *arguments],
                env={**environment, "TMPDIR": str(log.parent), **settings},
                stdout=stream,
                stderr=stream,
            )

    def log(self) -> str:
        return self._log.read_text()

    def url(self) -> str:
        """Wait until it says where it listens; without the final slash."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if found := re.search(r"Open +(http://\S+)/\n", self.log()):
                return found[1]
            assert self.process.poll() is None, self.log()
            time.sleep(0.02)
        raise AssertionError(self.log())

    def stop(self) -> int:
        """Press Ctrl-C, and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()


@contextmanager
def running_demo(folder: Path, **settings: str) -> Iterator[DemoProcess]:
    """Run the demo on a free port; `settings` are its environment."""
    demo = DemoProcess(folder / "demo.log", "--port", "0", **settings)
    try:
        yield demo
    finally:
        demo.stop()
