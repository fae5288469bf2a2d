"""The star: what its tables promise, the functions that a project writes for them, what a change of a batch reaches in them, their
files, and their assets. No table of any database here."""
