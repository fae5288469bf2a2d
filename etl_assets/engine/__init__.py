"""How star functions run: types, typing with a policy, DuckDB, Parquet, lineage. No table of any database here."""
