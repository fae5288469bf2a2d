"""The demonstration source: the ToteSys schema, believable content and days of business, in a real PostgreSQL server.

Here: what plays the part of the outside world, for a first run and for the tests.
Not here: anything the platform needs to read a source.
"""
