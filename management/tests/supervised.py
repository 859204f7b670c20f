"""A program for the tests: supervises, in a given folder, the small children that its second argument describes.

A third argument replaces constants of the supervisor, such as how long it waits.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from management import supervisor as module
from management.child_log import ChildLog
from management.errors import StackError, Stopped
from management.output import Output
from management.supervisor import Role, Supervisor


def main() -> int:
    folder, children, *constants = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])
    for name, value in (constants[0] if constants else {}).items():
        setattr(module, name, value)

    say = Output(sys.stdout).say

    def changed(pids: dict[str, int]) -> None:
        draft = folder / "pids.json.draft"
        draft.write_text(json.dumps(pids))
        draft.replace(folder / "pids.json")

    supervisor = Supervisor(log_for=lambda name: ChildLog(folder / f"{name}.log"), say=say, changed=changed)
    signal.signal(signal.SIGUSR1, lambda *_: supervisor.replace_apps())
    with supervisor.signals():
        try:
            for child in children:
                supervisor.start(
                    Role(
                        name=child["name"],
                        command=[sys.executable, "-c", child["code"]],
                        tier=child.get("tier", 2),
                        grace=child.get("grace", 5),
                    )
                )
            say("started")
            supervisor.watch()
        except Stopped:
            pass
        except StackError as error:
            say(f"error: {error}")
            return 1
        finally:
            supervisor.stop()
    say("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
