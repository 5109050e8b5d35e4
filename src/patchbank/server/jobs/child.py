"""The child process of a job: `python -m patchbank.server.jobs.child FOLDER`. It has no database.

What it has to say stands on its standard output, one JSON object a line; whatever else writes there goes to stderr. It
ends when its standard input does, because then the service has ended. SIGTERM makes it keep its state, and end.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import IO, Any

from patchbank import PatchbankError
from patchbank.server.jobs.folder import JobFolder
from patchbank.server.jobs.tools import Tools
from patchbank.store.folder import Folder, FolderInUseError, Lock

FAILED, STOPPED = 1, 130
_NICENESS = 10
# How libraries say it that do not raise MemoryError: Python's threads, C++, ONNX Runtime, OpenCV.
_OUT_OF_MEMORY = ("start new thread", "bad_alloc", "bad allocation", "Failed to allocate", "Insufficient memory")
_LAST_MOMENTS_S = 60.0  # to keep the state, once the service has ended
_WAIT_FOR_ANOTHER_S = 90.0  # until the child of a service that was killed has ended


def main(path: str) -> int:
    """Does the job. Returns the exit code."""
    folder = JobFolder(Path(path))
    with _own_output() as out:
        tools = Tools(folder, out)
        try:
            _prepare(tools)
            with _alone(folder):
                _work(folder.read_args(), tools)
        except KeyboardInterrupt:
            return STOPPED
        except Exception as error:  # noqa: BLE001  (the log says where; the service goes on)
            if not isinstance(error, PatchbankError):
                tools.log(traceback.format_exc())
            tools.say(error=_said(error))
            return FAILED
    return 0


def _said(error: Exception) -> str:
    if isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY):
        return f"it needs more memory than a job may take (--job-memory), or than there is ({error})"
    if isinstance(error, PatchbankError):
        return str(error)
    return f"unforeseen {type(error).__name__}: {error}; the log has the details"


def _work(args: dict[str, Any], tools: Tools) -> None:
    limit_memory(args["memory"])
    if tools.folder.result.exists():  # the service was killed before it had taken it
        return
    from patchbank.server.jobs.work import WORK

    tools.folder.write_result(WORK[args["kind"]](args, tools))


def _prepare(tools: Tools) -> None:
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the service, which says what is to be done
    threading.Thread(target=_end_with_the_service, daemon=True).start()
    tools.hear_the_library()


def limit_memory(most: int) -> None:
    """Has the system refuse more memory than so many bytes, where it can."""
    if sys.platform == "linux" and most:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _interrupt(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: nothing disturbs the keeping of the state
    raise KeyboardInterrupt


def _end_with_the_service() -> None:
    while os.read(0, 1024):  # not by sys.stdin, whose lock would be held when the interpreter ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_LAST_MOMENTS_S)
    os._exit(STOPPED)


class _alone:  # noqa: N801  (a block, as the functions of contextlib)
    """While the block runs, no other process works on the job."""

    def __init__(self, folder: JobFolder) -> None:
        self._folder = Folder(folder.path)

    def __enter__(self) -> None:
        end = time.monotonic() + _WAIT_FOR_ANOTHER_S
        while True:
            try:
                self._lock = Lock(self._folder)
                return
            except FolderInUseError:
                if time.monotonic() > end:
                    raise PatchbankError("another process still works on this job") from None
                time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _own_output() -> IO[str]:
    """Standard output, for messages only: what others print goes to stderr."""
    mine = os.dup(1)
    os.dup2(2, 1)
    return open(mine, "w", encoding="utf-8", errors="backslashreplace")  # noqa: PTH123  (a descriptor)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
