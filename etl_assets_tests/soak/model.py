"""What is made of the business, in two editions that differ in code, and the same told in plain Python."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import narwhals as nw

from etl_assets.source.table import Table
from etl_assets.star.definition import Inputs
from etl_assets.star.function import StarFunction, star_table
from etl_assets.star.schema import Column, Dimension, Fact
from etl_assets_tests.soak.business import State
from etl_assets_tests.soak.service import SALE, Sales

ACCOUNT = Table("account", "", {"id": "int", "name": "text", "owner": "text?"})
ENTRY = Table("entry", "", {"id": "int", "account_id": "int", "amount": "numeric(12,2)", "note": "text?"})
EDITIONS = ("first", "second")
_ACCOUNT = Dimension(
    "dim_account",
    "",
    "account_id",
    [Column("account_id", "int"), Column("name", "text"), Column("owner", "text?")],
)
_BALANCE = Dimension(
    "dim_balance",
    "",
    "account_id",
    [Column("account_id", "int"), Column("entries", "bigint"), Column("total", "numeric(38,2)")],
    rows="any",
)
_ENTRY = Fact(
    "fact_entry",
    "",
    "entry_id",
    [
        Column("entry_id", "int"),
        Column("account_id", "int", references="dim_account"),
        Column("amount", "numeric(12,2)"),
        Column("note", "text?"),
    ],
    record="entry_record_id",
)
_SALE = Fact(
    "fact_sale",
    "",
    "sale_id",
    [Column("sale_id", "bigint"), Column("edition", "int"), Column("price", "numeric(10,2)")],
    record="sale_record_id",
)


@star_table(_ACCOUNT)
def dim_account(account: nw.LazyFrame) -> nw.LazyFrame:
    return account.select(nw.col("id").alias("account_id"), "name", "owner")


def _second_dim_account() -> StarFunction:
    @star_table(_ACCOUNT)
    def dim_account(account: nw.LazyFrame) -> nw.LazyFrame:
        return account.select(nw.col("id").alias("account_id"), nw.col("name").str.to_uppercase(), "owner")

    return dim_account


@star_table(_BALANCE)
def dim_balance(entry: nw.LazyFrame) -> nw.LazyFrame:
    return entry.group_by("account_id").agg(
        nw.len().cast(nw.Int64).alias("entries"), nw.col("amount").sum().alias("total")
    )


@star_table(_ENTRY)
def fact_entry(entry: nw.LazyFrame) -> nw.LazyFrame:
    return entry.select(nw.col("id").alias("entry_id"), "account_id", "amount", "note")


@star_table(_SALE)
def fact_sale(sale: nw.LazyFrame) -> nw.LazyFrame:
    return sale.select(nw.col("id").alias("sale_id"), "edition", "price")


def inputs(edition: str) -> Inputs:
    """The tables and functions of an edition."""
    tables = {table.name: table for table in (ACCOUNT, ENTRY, SALE.table)}
    account = dim_account if edition == "first" else _second_dim_account()
    star = {
        "dim_account": account,
        "dim_balance": dim_balance,
        "fact_entry": fact_entry,
        "fact_sale": fact_sale,
    }
    return Inputs(tables, star, {})


def star(state: State, sales: Sales, edition: str) -> Mapping[str, set[tuple[Any, ...]]]:
    """The star that a state of the source makes, and sales of the service."""
    accounts = {
        (key, name.upper() if edition == "second" else name, owner)
        for key, name, owner in state["account"].values()
    }
    return {
        "dim_account": accounts,
        "dim_balance": set(_balances(state)),
        "fact_entry": {
            (key, account, Decimal(amount), note) for key, account, amount, note in state["entry"].values()
        },
        "fact_sale": {(key, told, price) for key, (told, price) in sales.items()},
    }


def _balances(state: State) -> Iterator[tuple[int, int, Decimal]]:
    amounts: dict[int, list[Decimal]] = {}
    for _, account, amount, _ in state["entry"].values():
        amounts.setdefault(account, []).append(Decimal(amount))
    for account, several in amounts.items():
        yield account, len(several), sum(several, Decimal())
