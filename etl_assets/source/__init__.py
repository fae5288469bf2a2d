"""What exists outside and is never moved: the tables that are read, their server, one instant of it, and files that are observed."""
