"""What is read. Other columns than these are landed and not used."""

from etl_assets.project import Table

STATION = Table(
    "station",
    "One row is a place where bicycles are hired.",
    {"station_id": "int", "name": "text", "city": "text?", "phone": "text"},
)
BIKE = Table(
    "bike",
    "One row is a bicycle.",
    {"bike_id": "int", "model": "text", "colour": "text", "station_id": "int?"},
)
HIRE = Table(
    "hire",
    "One row is a hire of a bicycle.",
    {
        "hire_id": "int",
        "bike_id": "int",
        "station_id": "int",
        "started": "timestamp",
        "returned_on": "date",
        "minutes": "int",
        "price": "numeric(10,2)",
    },
)
PAYMENT = Table(
    "payment",
    "One row is what is to be paid for a hire.",
    {"payment_id": "int", "hire_id": "int", "amount": "numeric(10,2)", "paid": "boolean", "due": "date"},
)
