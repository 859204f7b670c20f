"""Run a command that the kernel ends with its parent: ``python launch.py PARENT SIGNAL COMMAND…`` (Linux).

It is a separate program, because this setting is not safe between fork and exec in a process with threads.
It uses only the standard library and imports nothing of this project.
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
