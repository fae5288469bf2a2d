"""What exists outside and is never moved: the tables that are read, and the project's reference files.

To bring another database, declare its tables beside `totesys.py`.
"""
