"""The APIs that are called: what is asked of them, how often, and what is kept of a record."""

from etl_assets.project import Api, Credential, Limits, PageNumber, Rate, Retry, Windows

CARD_SALE = Api(
    "card_sale",
    "One row is a sale of trading cards.",
    "https://cards.example/v1/sales",
    url_setting="CARDS_URL",
    columns={
        "sale_id": "bigint",
        "card": "text",
        "grade": "smallint",
        "price": "numeric(10,2)",
        "currency": "text",
        "quantity": "int",
        "sold_at": "timestamptz",
    },
    fields={"card": "card.name", "grade": "card.grade"},
    key=("sale_id",),
    records="data",
    total="meta.total",
    paging=PageNumber("page", size="per_page", records=100),
    windows=Windows("week", since="2024-01-01", parameters={"from": "{start}", "to": "{end}"}),
    credential=Credential("CARDS_KEY"),
    rate=Rate(10, per_seconds=1),
    concurrency=4,
    retry=Retry(attempts=3, pause_seconds=5),
    limits=Limits(seconds=300),
)
EXCHANGE_RATE = Api(
    "exchange_rate",
    "One row is the rate of a currency on a day: units of it for one euro.",
    "https://rates.example/v1/rates",
    url_setting="RATES_URL",
    columns={"day": "date", "currency": "text", "per_euro": "numeric(18,6)"},
    key=("day", "currency"),
    records="data",
    windows=Windows("day", since="2024-01-01", parameters={"day": "{start}"}),
    rate=Rate(10, per_seconds=1),
)
