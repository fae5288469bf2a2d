"""`python -m etl_assets.interface.daemon run …`: Dagster's daemon, which ends with the process that started it.

That one holds the other end of its standard input, which the kernel closes however the process ends. A daemon that is
left behind would go on with the history that the next interface takes over.
"""

import os
import signal
import sys
import threading

from etl_assets.pace import Pace
from etl_assets.settings import Settings


def main() -> None:
    threading.Thread(target=_end_with_who_started_it, daemon=True).start()
    from dagster._daemon.cli import main as daemon

    look_as_often_as_the_pace_wants(Settings.read(os.environ).every)
    daemon()


def look_as_often_as_the_pace_wants(pace: Pace) -> None:
    """Let Dagster look every second which sensors are due, where the source is to be read that often: it would look every five."""
    from dagster._daemon import sensor

    sensor.MIN_INTERVAL_LOOP_TIME = min(sensor.MIN_INTERVAL_LOOP_TIME, max(pace.seconds, 1))


def _end_with_who_started_it() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    main()
