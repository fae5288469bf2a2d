"""The project that the machinery is tested on: bicycles that are hired at stations.

Small on purpose, and with one of each: a dimension that two tables and a reference file meet in, a calendar, two facts of
which one refers to two dimensions, texts that are declared dates and amounts, reports with and without control totals. Its
source, and what PostgreSQL says that its star is, stand in `etl_assets_tests/hiring.py`.
"""

from etl_assets.project import Options

OPTIONS = Options(workbook="Hires", references={"colours": "One row is a colour: its code and its name."})
