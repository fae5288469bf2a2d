"""The ground under star and proof: DuckDB, types, typing with a policy, exact sums, versions of code. Knows no table of anybody's."""
