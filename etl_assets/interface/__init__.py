"""Dagster's web interface as `etl ui` serves it: to this machine, to its own pages, once per history."""
