"""`python -m etl_assets.interface.daemon run …`: Dagster's daemon, which ends with the process that started it.

That one holds the other end of its standard input, which the kernel closes however the process ends. A daemon that is
left behind would go on with the history that the next interface takes over.
"""

import os
import signal
import sys
import threading


def main() -> None:
    threading.Thread(target=_end_with_who_started_it, daemon=True).start()
    from dagster._daemon.cli import main as daemon

    daemon()


def _end_with_who_started_it() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    main()
