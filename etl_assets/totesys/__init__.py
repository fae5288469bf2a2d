"""The project that ships: ToteSys, the orders and payments of a company that sells tote bags.

A project of your own looks like this one: tables that are read, dimensions and facts, reports, and reference files (CSV).
`demo` is no part of it: a PostgreSQL with generated data.
"""

from etl_assets.project import Options

OPTIONS = Options(
    workbook="Sales", references={"iso_4217": "One row is a currency of ISO 4217: its code and its name."}
)
