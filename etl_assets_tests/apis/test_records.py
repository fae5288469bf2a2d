"""Values of JSON become text exactly, or are named; what the verification makes of them by its own means is the same."""

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl_assets.apis.answers import parsed, records_of
from etl_assets.apis.declaration import Api
from etl_assets.apis.errors import ApiError
from etl_assets.apis.records import Misfit, Rows
from etl_assets.engine.types import Type
from etl_assets.engine.typing import Typing
from etl_assets.proof.pages import _UNFIT, _answer, _value


def api(type_: str) -> Api:
    return Api("thing", "", "https://things.example", {"id": "int", "value": type_}, key=("id",))


def written(type_: str, value: str) -> str | None:
    record = parsed(f'{{"id": 1, "value": {value}}}'.encode())
    return Rows(api(type_)).row(record)[1]


@pytest.mark.parametrize(
    ("type_", "value", "text"),
    [
        ("int", "5", "5"),
        ("int", "5.0", "5"),
        ("int", '"5"', "5"),
        ("smallint", "32768", None),
        ("bigint", "9223372036854775807", "9223372036854775807"),
        ("int", "-2147483648", "-2147483648"),
        ("int", "-2147483649", None),
        ("int", "5.5", None),
        ("int", "true", None),
        ("numeric(10,2)", "1.10", "1.10"),
        ("numeric(10,2)", "1e2", "100.00"),
        ("numeric(10,2)", "1.005", None),
        ("numeric(10,2)", "-0.0", "0.00"),
        ("numeric(4,2)", "100", None),
        ("numeric(38,20)", "0.12345678901234567891", "0.12345678901234567891"),
        ("numeric", "1e-3", "0.001"),
        ("numeric", "1e9999", None),
        ("boolean", "true", "t"),
        ("boolean", "1", None),
        ("double", "1e16", "1e+16"),
        ("double", "1e400", None),
        ("real", "0.1", "0.1"),
        ("date", '"2024-01-31"', "2024-01-31"),
        ("date", '"2024-02-30"', None),
        ("date", '"2024-01-31T00:00:00"', None),
        ("timestamp", '"2024-01-31T10:00:00.120"', "2024-01-31 10:00:00.120000"),
        ("timestamp", '"2024-01-31T10:00:00Z"', None),
        ("timestamptz", '"2024-01-31T10:00:00+02:00"', "2024-01-31 08:00:00+00"),
        ("timestamptz", '"2024-01-31T10:00:00Z"', "2024-01-31 10:00:00+00"),
        ("timestamptz", '"2024-01-31T10:00:00"', None),
        ("time", '"10:00"', "10:00:00"),
        ("uuid", '"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"', "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("text", "1.10", "1.10"),
        ("text", '""', ""),
        ("text", "{}", None),
        ("text", '"a\\u0000b"', None),
        ("text", '"\\ud800"', None),
        ("jsonb", '{"a": [1.10, null, "x"]}', '{"a": [1.10, null, "x"]}'),
    ],
)
def test_a_value_is_written_as_postgresql_does_or_not_at_all(
    type_: str, value: str, text: str | None
) -> None:
    """Row E6: what can't be represented is named, never altered."""
    if text is None:
        with pytest.raises(Misfit, match="value is no "):
            written(type_, value)
    else:
        assert written(type_, value) == text


def test_what_is_no_record_or_lacks_a_value_is_named() -> None:
    rows = Rows(api("text"))
    for record, told in (
        ([], "is no record"),
        ({"id": 1}, "is missing"),
        ({"id": 1, "value": None}, "is NULL"),
    ):
        with pytest.raises(Misfit, match=told):
            rows.row(record)
    assert Rows(api("text?")).row({"id": 1}) == ["1", None]


_JSON = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**65), 2**65),
    st.decimals(-1000, 1000, places=3).map(str),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=6),
    st.dates().map(str),
    st.datetimes().map(lambda moment: moment.isoformat()),
    st.datetimes().map(lambda moment: f"{moment.isoformat()}Z"),
    st.times().map(str),
    st.lists(st.integers(), max_size=2),
).map(json.dumps) | st.sampled_from(
    [
        "1e400",
        "-1e39",
        "NaN",
        "-Infinity",
        '{"a": [NaN]}',
        '{"a": "\\u0000"}',
        '"\\\\u0000"',
        '{"\\ud800": 1}',
    ]
)
_TYPES = ["smallint", "int", "bigint", "numeric(10,2)", "numeric", "boolean", "double", "date", "time", "timestamp",
          "timestamptz", "text", "uuid", "real", "jsonb"]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(value=_JSON, declared=st.sampled_from(_TYPES))
def test_two_ways_to_read_a_value_agree(value: str, declared: str) -> None:
    """What the flow writes as text, typed as all text of the lake is, is what the verification reads from the page."""
    page = f'{{"id": 1, "value": {value}}}'.encode()
    try:
        row = Rows(api(declared)).row(parsed(page))
    except Misfit:
        row = None
    expected = _value(Type(declared), _answer(page)["value"])
    assert (row is None) is (expected is _UNFIT)
    if row is None or declared == "jsonb":  # its blanks and the spelling of its numbers are nobody's business
        return
    rows = Rows(api(declared))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        held = connection.sql("SELECT CAST($1 AS BIGINT) AS id, $2::VARCHAR AS value", params=row)
        found = Typing(rows.api.table.types, rows.columns).typed(
            held.project(f"id, {'CAST(value AS BIGINT) AS value' if 'int' in declared else 'value'}"),
            only_exact=False,
        )
        shown = found.to_arrow_table().column("value")[0].as_py()
    assert str(shown) == str(expected) if declared == "uuid" else shown == expected


def test_the_same_records_come_out_of_a_page_by_a_path_and_by_a_function(tmp_path: Path) -> None:
    answer = parsed(b'{"rates": {"2024-01-01": {"USD": 1.10}}}')

    def flat(told: Any) -> Any:
        return [
            {"day": d, "currency": c, "rate": r} for d, row in told["rates"].items() for c, r in row.items()
        ]

    def ends(told: Any) -> Any:
        raise StopIteration

    assert records_of("x", answer, flat) == [{"day": "2024-01-01", "currency": "USD", "rate": "1.10"}]
    with pytest.raises(ApiError, match="function for its records fails: StopIteration"):
        records_of("x", answer, ends)  # row E10: it would end the stream, and nobody would know
    with pytest.raises(ApiError, match="has dict at rates, where a list of records should be"):
        records_of("x", answer, "rates")
