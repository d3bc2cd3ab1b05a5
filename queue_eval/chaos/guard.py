"""Ends the processes of an attack when the attack itself is killed.

``python -P -m queue_eval.chaos.guard MARK FOLDER`` waits for the end of standard input, a pipe that only the
attack holds open. Then it ends all processes with MARK. It also removes FOLDER, unless that is "", or the
attack has sent a byte to say that it ended by itself.
"""

from __future__ import annotations

import shutil
import sys

from queue_eval.chaos.processes import end_all


def main() -> None:
    mark, folder = sys.argv[1:3]
    is_over = bool(sys.stdin.buffer.read())
    end_all(mark)
    if folder and not is_over:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
