"""Run a command that the kernel ends together with its parent: ``python launch.py PARENT SIGNAL COMMAND…`` (Linux).

A program of its own, because asking for it between fork and exec is not safe in a process that has had threads.
Uses the standard library only and imports nothing of this project.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, number, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))
    if os.getppid() != int(parent):  # it went before we asked
        sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 - that is its purpose; the command is the supervisor's


if __name__ == "__main__":
    main()
