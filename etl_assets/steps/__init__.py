"""Steps: a few lines of a project that query a database, move files and tell people, in order and with one session.

Not here: how data gets from the source to the reports; that is done by stages, and proven.
"""
