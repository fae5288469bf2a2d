"""How what was captured is kept: files by URL, numbered batches, the latest state. No Dagster and no SQL source."""
