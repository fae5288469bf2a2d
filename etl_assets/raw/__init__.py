"""What was landed, unchanged and never overwritten: CSV batches of the source's tables."""
