"""What a change of headers costs their lines."""
