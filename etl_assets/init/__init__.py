"""A project from a catalog: what `etl init` reads (catalog), decides (declaring, design) and writes (writing).

It knows PostgreSQL and what a project looks like, and nothing of lakes, stars or warehouses that exist.
"""
