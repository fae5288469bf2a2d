"""A project of one table, one dimension, one fact and one report in a folder, for tests that run the whole flow often."""

from pathlib import Path

from etl_assets_tests.flow import execute

PROJECT = '''
"""A shop."""

from etl_assets.project import Column, ReportColumn, Table, dimension, fact, report

ITEM = Table("item", "One row is an item.", {"item_id": "int", "name": "text", "price": "numeric(10,2)"})


@dimension(key="item_id", columns=[Column("item_id", "int"), Column("name", "text")])
def dim_item(item):
    """One row is an item."""
    return item.select("item_id", "name")


@fact(
    key="item_id",
    record="price_record_id",
    columns=[Column("item_id", "int", references="dim_item"), Column("price", "numeric(10,2)")],
)
def fact_price(item):
    """One row is a version of a price."""
    return item.select("item_id", "price")


@report(
    title="Prices",
    key=["item_id"],
    columns=[ReportColumn("item_id", "int"), ReportColumn("price", "numeric(10,2)")],
    query="SELECT p.item_id, p.price FROM star.fact_price_current AS p",
)
def prices(frame):
    """One row is a price."""
    return frame
'''
ITEMS = """
    CREATE TABLE item (item_id int PRIMARY KEY, name text NOT NULL, price numeric(10,2) NOT NULL);
    INSERT INTO item SELECT n, 'item ' || n, n + 0.5 FROM generate_series(1, 20) n;
    CREATE TABLE diary (told text);
"""


def lay_out(url: str, folder: Path) -> None:
    """Make the source, and the project in a folder."""
    execute(url, ITEMS)
    (folder / "etl_project").mkdir(parents=True)
    (folder / "etl_project" / "__init__.py").write_text(PROJECT)
    (folder / "etl_project" / "rates.csv").write_text("code,rate\nGBP,1\n")
