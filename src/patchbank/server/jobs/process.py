"""The child process of a job, as the service sees it: started, listened to, ended."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from patchbank.server.jobs.folder import JobFolder

_LONGEST_MESSAGE = 1 << 20  # bytes
_LAST_WORDS = 8000  # characters of what stands on stderr
_MOST_LOG = 100_000  # characters that wait to be written
_STRANGE = "the job's process said what is no message"


@dataclass(slots=True)
class Heard:
    """What the child has said. log: what is not written yet. error: why it has failed. images: what it has kept, which
    is not written yet."""

    stage: str = ""
    done: int = 0
    total: int = 0
    log: str = ""
    error: str = ""
    images: list[dict[str, Any]] = field(default_factory=list)
    stage_began: float = field(default_factory=time.monotonic)
    done_then: int = 0

    @property
    def eta(self) -> float | None:
        """Seconds to the end of the stage; None: not known."""
        since, done = time.monotonic() - self.stage_began, self.done - self.done_then
        return None if done < 1 or not self.total else since / done * max(0, self.total - self.done)

    def take(self, message: dict[str, Any]) -> None:
        """Takes a message. Raises ValueError for what is none."""
        if "stage" in message:
            stage, done, total = str(message["stage"]), int(message["done"]), int(message["total"])
            if stage != self.stage:
                self.stage_began, self.done_then = time.monotonic(), done
            self.stage, self.done, self.total = stage, done, total
        if "log" in message:
            self.log = (self.log + str(message["log"]) + "\n")[-_MOST_LOG:]
        if "error" in message:
            self.error = str(message["error"])
        if "images" in message:
            self.images += list(message["images"])


class Child:
    """A running child. `heard` is what it has said so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Made by `started`."""
        self.heard, self.news = Heard(), asyncio.Event()  # news: another stage has begun
        self.process = process
        self._last_words = ""
        self._listening = asyncio.gather(self._listen(), self._listen_to_errors())
        self.ended = asyncio.ensure_future(self._wait())

    async def _wait(self) -> int:
        """The exit code, once all that it said was heard; below 0: the signal that has ended it."""
        await self._listening
        code = await self.process.wait()
        if code not in (0, 130) and self._last_words:
            self.heard.log += self._last_words
        return code

    async def stop(self, grace: float) -> None:
        """Has it keep its state and end; after so many seconds, it is ended."""
        with suppress(ProcessLookupError):
            self.process.terminate()
        done, _ = await asyncio.wait([self.ended], timeout=grace)
        if not done:
            await self.kill()

    async def kill(self) -> None:
        """Ends it now."""
        with suppress(ProcessLookupError):
            self.process.kill()
        await asyncio.wait([self.ended])

    async def _listen(self) -> None:
        stream = self.process.stdout
        if stream is None:
            return
        try:
            while line := await stream.readline():
                before = self.heard.stage
                self.heard.take(json.loads(line))
                if self.heard.stage != before:
                    self.news.set()
        except (ValueError, TypeError, KeyError):  # also for a line that is too long
            self.heard.error = _STRANGE
            with suppress(ProcessLookupError):
                self.process.kill()

    async def _listen_to_errors(self) -> None:
        while self.process.stderr is not None and (part := await self.process.stderr.read(4096)):
            self._last_words = (self._last_words + part.decode(errors="replace"))[-_LAST_WORDS:]


async def started(folder: JobFolder, *, threads: int) -> Child:
    """A child that works on the job of this folder. threads: 0 = as many as there are processors."""
    source = str(Path(__file__).parents[3])  # where the package lies
    before = os.environ.get("PYTHONPATH")
    environment = os.environ | {"PYTHONPATH": source if not before else source + os.pathsep + before}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "patchbank.server.jobs.child", str(folder.path)),
        stdin=asyncio.subprocess.PIPE,  # its end tells the child that the service has ended, however
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder.path,
        env=environment,
        limit=_LONGEST_MESSAGE,
        creationflags=getattr(subprocess, "BELOW_NORMAL_PRIORITY_CLASS", 0),
    )
    return Child(process)
