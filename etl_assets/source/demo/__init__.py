"""The demonstration source: a real PostgreSQL server, the ToteSys schema, believable content and days of business.

Here: what plays the part of the outside world, for a first run and for the tests.
Not here: anything the platform needs to read a source; nothing outside the tests and the launcher may import this.
"""
