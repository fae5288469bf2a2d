"""The star: stations, bicycles, days; hires and payments."""

import narwhals as nw

from etl_assets.project import Column, calendar, dimension, fact


@dimension(
    key="station_id",
    columns=[
        Column("station_id", "int"),
        Column("name", "text"),
        Column("city", "text?"),
        Column("phone", "text", "Text: leading zeros count."),
    ],
)
def dim_station(station: nw.LazyFrame) -> nw.LazyFrame:
    """One row is a place where bicycles are hired."""
    return station.select("station_id", "name", "city", "phone")


@dimension(
    key="bike_id",
    columns=[
        Column("bike_id", "int"),
        Column("model", "text"),
        Column("colour", "text", "Its name, or the code where nobody knows it."),
        Column("station", "text?", "Where it stands."),
    ],
)
def dim_bike(bike: nw.LazyFrame, station: nw.LazyFrame, colours: nw.LazyFrame) -> nw.LazyFrame:
    """One row is a bicycle, with the station as it is now."""
    # A left join: no bicycle vanishes for want of a station.
    at = station.select("station_id", nw.col("name").alias("station"))
    named = bike.join(at, on="station_id", how="left").join(
        colours, left_on="colour", right_on="code", how="left"
    )
    colour = nw.coalesce(nw.col("colour_name"), nw.col("colour")).alias("colour")
    return named.select("bike_id", "model", colour, "station")


@fact(
    key="hire_id",
    record="hire_record_id",
    columns=[
        Column("hire_id", "int"),
        Column("bike_id", "int", references="dim_bike"),
        Column("station_id", "int", references="dim_station"),
        Column("started_on", "date", references="dim_date"),
        Column("started_at", "time"),
        Column("returned_on", "date", references="dim_date"),
        Column("minutes", "int"),
        Column("price", "numeric(10,2)"),
    ],
)
def fact_hire(hire: nw.LazyFrame) -> nw.LazyFrame:
    """One row is a version of a hire, or the record of its deletion."""
    return hire.select(
        "hire_id",
        "bike_id",
        "station_id",
        nw.col("started").cast(nw.Date).alias("started_on"),
        nw.col("started").cast(nw.Time).alias("started_at"),
        "returned_on",
        "minutes",
        "price",
    )


@fact(
    key="payment_id",
    record="payment_record_id",
    columns=[
        Column("payment_id", "int"),
        Column("hire_id", "int"),
        Column("amount", "numeric(10,2)"),
        Column("paid", "boolean"),
        Column("due", "date", references="dim_date"),
    ],
)
def fact_payment(payment: nw.LazyFrame) -> nw.LazyFrame:
    """One row is a version of a payment, or the record of its deletion."""
    return payment.select("payment_id", "hire_id", "amount", "paid", "due")


dim_date = calendar()
