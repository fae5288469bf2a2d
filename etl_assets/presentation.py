"""How long ago raw tables and warehouse may have been proven equal to the source."""

from datetime import timedelta

import dagster as dg

# Runs come when the source changes, and once a day if it does not (see automation/jobs.py): later than that is late,
# a day later than that is wrong. An hour is for a run that waits or takes long.
DAILY = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=25), fail_window=timedelta(hours=49))
