"""A small star, made by hand, in a real DuckDB."""

import datetime
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from etl_assets.exports.assets import export_assets
from etl_assets.exports.contract import Report
from etl_assets.exports.duckdb import DuckDBReportTables, ReportIOManager
from etl_assets.exports.lineage import traced
from etl_assets.exports.publishing import Workbook
from etl_assets.exports.workbook import XlsxWorkbook
from etl_assets.star.resource import Lake
from etl_assets.star.schema import Fact, StarTable
from etl_assets.warehouse.duckdb import DuckDBWarehouse
from etl_assets_tests.shipped import REPORTS, SCHEMAS

TABLES = list(SCHEMAS.values())
DAY = datetime.date(2026, 3, 15)
_BLANK: Mapping[str, Any] = {
    "int": 1,
    "bigint": 1,
    "text": "x",
    "date": DAY,
    "time": datetime.time(9),
    "boolean": False,
    "numeric(10,2)": Decimal("1.00"),
}
_MEMBERS: Sequence[tuple[StarTable, Sequence[Mapping[str, Any]]]] = [
    (
        SCHEMAS["dim_staff"],
        [
            {"staff_id": 1, "first_name": "Ada", "last_name": "Byron"},
            {"staff_id": 2, "first_name": "Ada", "last_name": "Byron"},
        ],
    ),
    (
        SCHEMAS["dim_currency"],
        [
            {"currency_id": 1, "currency_code": "GBP"},
            {"currency_id": 2, "currency_code": "EUR"},
        ],
    ),
    (SCHEMAS["dim_design"], [{"design_id": n, "design_name": f"Design {n}"} for n in range(1, 31)]),
    (SCHEMAS["dim_counterparty"], [{"counterparty_id": 1, "counterparty_legal_name": "=SUM(A1:A9)"}]),
    (
        SCHEMAS["dim_payment_type"],
        [
            {"payment_type_id": 1, "payment_type_name": "SALES_RECEIPT"},
            {"payment_type_id": 2, "payment_type_name": "PURCHASE_PAYMENT"},
        ],
    ),
]


@dataclass(frozen=True)
class Star:
    """Schema `star` of a warehouse, and everything that runs on it."""

    warehouse: DuckDBWarehouse
    folder: Path

    @property
    def tables(self) -> DuckDBReportTables:
        return DuckDBReportTables(warehouse=self.warehouse)

    @property
    def lake(self) -> Lake:
        """A lake without batches: no certificate speaks against a report."""
        return Lake(
            url=str(self.folder / "lake"),
            scratch=str(self.folder / "scratch"),
            cache=str(self.folder / "cache"),
        )

    @property
    def workbook(self) -> Path:
        return self.folder / "out" / "sales.xlsx"

    def hold(self, table: StarTable, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace a table by these rows; what they leave out is filled in."""
        full = [
            {c.name: row.get(c.name, None if c.type.nullable else _BLANK[c.type.name]) for c in table.columns}
            for row in rows
        ]
        with self.warehouse.connect() as connection:
            connection.execute("CREATE SCHEMA IF NOT EXISTS star")
            connection.register("given", pa.Table.from_pylist(full, schema=table.arrow))
            connection.execute(f"CREATE OR REPLACE TABLE star.{table.name} AS SELECT * FROM given")
            if isinstance(table, Fact):
                connection.execute(
                    f"CREATE OR REPLACE VIEW star.{table.name}_current AS SELECT * FROM star.{table.name} QUALIFY "
                    f"row_number() OVER (PARTITION BY {', '.join(table.key_columns)} ORDER BY {table.record} DESC) = 1 AND NOT deleted"
                )

    def sales(self, *rows: Mapping[str, Any]) -> None:
        self.hold(
            SCHEMAS["fact_sales_order"],
            [{"sales_record_id": n, "sales_order_id": n} | dict(row) for n, row in enumerate(rows, 1)],
        )

    def payments(self, *rows: Mapping[str, Any]) -> None:
        self.hold(
            SCHEMAS["fact_payment"],
            [{"payment_record_id": n, "payment_id": n} | dict(row) for n, row in enumerate(rows, 1)],
        )

    def publish(
        self,
        reports: Sequence[Report] = tuple(REPORTS),
        *,
        workbook: Workbook | None = None,
        expect_failure: bool = False,
    ) -> dg.ExecuteInProcessResult:
        """Materialize the exports as a deployment would; the workbook is a file unless another is given."""
        result = dg.materialize(
            export_assets(reports, traced(reports, SCHEMAS), "Sales"),
            instance=dg.DagsterInstance.ephemeral(str(self.folder)),
            resources={
                "warehouse": self.warehouse,
                "lake": self.lake,
                "reports": ReportIOManager(tables=self.tables),
                "workbook": workbook or XlsxWorkbook(path=str(self.workbook)),
            },
            raise_on_error=not expect_failure,
        )
        assert result.success is not expect_failure
        return result

    def report(self, report: Report) -> list[dict[str, Any]]:
        """What a report makes of the star."""
        frame = report.make(self.warehouse.query(report.query))
        return [{str(name): value for name, value in row.items()} for row in frame.to_dict(orient="records")]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The warehouse file that every test gets a copy of."""
    star = _star(tmp_path_factory.mktemp("star"))
    members = {table.name: rows for table, rows in _MEMBERS}
    for table in TABLES:
        star.hold(table, members.get(table.name, []))
    days = [datetime.date(2024, 1, 1) + datetime.timedelta(days=n) for n in range(3 * 366)]
    star.hold(
        SCHEMAS["dim_date"], [{"date_id": d, "year": d.year, "month": d.month, "day": d.day} for d in days]
    )
    star.sales({"units_sold": 1000, "unit_price": Decimal("2.01")})
    star.payments({"payment_amount": Decimal("2010.00")})
    return Path(star.warehouse.path)


@pytest.fixture
def star(made_once: Path, tmp_path: Path) -> Star:
    """A star whose dimensions have a few members each, and whose facts hold a sale and a payment."""
    made = _star(tmp_path)
    shutil.copyfile(made_once, made.warehouse.path)
    return made


def _star(folder: Path) -> Star:
    warehouse = DuckDBWarehouse(path=str(folder / "warehouse.duckdb"), scratch=str(folder / "scratch"))
    return Star(warehouse, folder)


@pytest.fixture
def metadata() -> Callable[[dg.ExecuteInProcessResult], dict[str, dict[str, Any]]]:
    """The metadata of every asset that a run materialized, by the asset's name."""

    def of(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
        return {
            event.materialization.asset_key.path[-1]: {
                key: value.value for key, value in event.materialization.metadata.items()
            }
            | {"version": (event.materialization.tags or {}).get("dagster/data_version")}
            for event in result.get_asset_materialization_events()
        }

    return of
