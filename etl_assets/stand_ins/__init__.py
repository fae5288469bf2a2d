"""What speaks like the services that we use, on this machine: an embedded PostgreSQL, small servers that real clients talk to."""
