"""How a PostgreSQL source is read: one snapshot, every change, at the speed of COPY, landed as a batch. No Dagster."""
