"""A small source and its star, for tests that run the flow often: teams of workers, and their sales."""

import narwhals as nw

from etl_assets.source.table import Table
from etl_assets.star.definition import Inputs
from etl_assets.star.function import star_table
from etl_assets.star.schema import Column, Dimension, Fact

TEAM = Table("team", "", {"id": "int", "name": "text"})
WORKER = Table("worker", "", {"id": "int", "name": "text", "team_id": "int?"})
SALE = Table(
    "sale", "", {"id": "int", "worker_id": "int", "amount": "numeric(10,2)", "due": "date"}, key=("id",)
)


@star_table(
    Dimension(
        "dim_worker",
        "",
        "worker_id",
        [Column("worker_id", "int"), Column("name", "text"), Column("team", "text?")],
    )
)
def dim_worker(worker: nw.LazyFrame, team: nw.LazyFrame) -> nw.LazyFrame:
    return worker.join(
        team.select("id", nw.col("name").alias("team")), left_on="team_id", right_on="id", how="left"
    ).select(nw.col("id").alias("worker_id"), "name", "team")


@star_table(
    Fact(
        "fact_sale",
        "",
        "sale_id",
        [
            Column("sale_id", "int"),
            Column("worker_id", "int", references="dim_worker"),
            Column("amount", "numeric(10,2)"),
            Column("due", "date"),
        ],
        record="sale_record_id",
    )
)
def fact_sale(sale: nw.LazyFrame) -> nw.LazyFrame:
    return sale.select(nw.col("id").alias("sale_id"), "worker_id", "amount", "due")


INPUTS = Inputs(
    {table.name: table for table in (TEAM, WORKER, SALE)},
    {"dim_worker": dim_worker, "fact_sale": fact_sale},
    {},
)
SOURCE = """
    CREATE TABLE team (id int PRIMARY KEY, name text);
    CREATE TABLE worker (id int PRIMARY KEY, name text, team_id int);
    CREATE TABLE sale (id int PRIMARY KEY, worker_id int, amount numeric, due text);
    INSERT INTO team SELECT n, 'team ' || n FROM generate_series(1, 5) n;
    INSERT INTO worker SELECT n, 'worker ' || n, mod(n, 6) FROM generate_series(1, 30) n;
    INSERT INTO sale SELECT n, mod(n, 31), n + 0.25, CASE WHEN mod(n, 50) = 1 THEN 'soon' ELSE '2024-01-05' END
        FROM generate_series(1, 300) n;
"""
DAY = """
    UPDATE team SET name = 'the ' || name WHERE id = 2;
    UPDATE worker SET team_id = 1 WHERE mod(id, 7) = 0;
    INSERT INTO worker VALUES (0, 'late', 1);
    DELETE FROM sale WHERE mod(id, 40) = 0;
    UPDATE sale SET amount = amount + 1, due = '2024-02-01' WHERE mod(id, 25) = 1;
    INSERT INTO sale SELECT n, 3, 7, '2024-03-01' FROM generate_series(301, 330) n;
"""
