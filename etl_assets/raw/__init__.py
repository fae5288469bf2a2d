"""What was landed, unchanged and never overwritten: how a table is read, what changed in it, and the batch that says so."""
