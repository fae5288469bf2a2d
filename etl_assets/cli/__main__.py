"""`python -m etl_assets.cli`, for where the console script is not installed."""

from etl_assets.cli import main

main()
