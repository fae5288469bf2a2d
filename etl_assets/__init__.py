"""A copy of an operational PostgreSQL database that is provably equal to it, as Dagster assets.

The data moves through five stages. A stage has one name everywhere: its folder here, its group in the UI,
the first part of its asset keys, its folder in the lake or its schema in the warehouse.

    source ──► raw ──► star ──► warehouse ──► exports

What is outside is a database (`source`) or a REST API (`apis`): both end in batches of raw. `steps` are beside them: what a
project does with databases, files and messages of its own.

`lake` (how files and batches are kept), `engine` (how functions run) and `clients` (how services are talked to) are machinery:
they know nothing of orders and payments, and nothing of Dagster.
"""
