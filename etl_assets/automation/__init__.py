"""What runs, and when. Not here: what runs."""
