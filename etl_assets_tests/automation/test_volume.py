"""A batch that brings far more or less than batches usually do is flagged, and nothing else is."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl_assets.lake.manifest import (
    MAIN,
    Control,
    Manifest,
    SourceIdentity,
    SourceState,
    TableChanges,
    TableState,
)
from etl_assets.raw.assets import volume_check
from etl_assets.raw.volume import ENOUGH, HISTORY, Measure, measures
from etl_assets_tests.flow import Flow, Run, execute

KEY = dg.AssetKey(["raw", "sale"])


def manifests(
    *brought: tuple[int, int, object] | None, rows: int = 10_000, total: object = "500000.00"
) -> list[Manifest]:
    """A first load, then a batch for each (rows new or changed, rows deleted, what the amount's sum grows by). A
    sum that is None is not known; None is a batch that did not change the table."""
    made = [_manifest(1, rows, str(total), TableChanges(
        rows=None, deletions=None, quarantined=None, new=rows, changed=0, deleted=0
    ))]  # fmt: skip
    for index, item in enumerate(brought, start=2):
        known = made[-1].tables["sale"].controls["amount"].sum
        if item is None:
            made.append(_manifest(index, rows, known, None))
            continue
        changed, deleted, amount = item
        sum_now = None if amount is None else str(Decimal(known or 0) + Decimal(str(amount)))
        rows += changed - deleted
        made.append(_manifest(index, rows, sum_now, TableChanges(
            rows=None, deletions=None, quarantined=None, new=changed, changed=0, deleted=deleted
        )))  # fmt: skip
    return made


def _manifest(batch: int, rows: int, amount: str | None, changes: TableChanges | None) -> Manifest:
    state = TableState(
        columns=(), key=("sale_id",), rows=rows, members=rows, versions=rows, changed_in=batch, previous=None,
        history="", read_in=batch, read="horizon", why="", horizon=1, relation=1, partitions=(), layout="",
        controls={"amount": Control(sum=amount), "at": Control(min="2026-01-01", max="2026-01-02")},
        clean_under=None, changes=changes,
    )  # fmt: skip
    identity = SourceIdentity(system_identifier=None, timeline=None, database="shop", version="17")
    source = SourceState(
        identity=identity, snapshot="", horizon=1, next_transaction=1, lsn="0/0",
        server_time=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    return Manifest(
        format=2, batch=batch, lake="", run_id="", previous=None, sources={MAIN: source}, seconds=0.0,
        tables={"sale": state},
    )  # fmt: skip


def odd(*brought: tuple[int, int, object] | None) -> list[str]:
    return [measure.name for measure in measures("sale", manifests(*brought)) if not measure.is_usual]


USUAL = [(500 + d, 5, 25_000 + 50 * d) for d in (-40, 10, 25, -5, 30, 0, -20, 15)]


@pytest.mark.parametrize(
    ("batch", "flagged"),
    [
        ((500, 5, 25_000), []),
        ((560, 9, 28_000), []),
        ((5_000, 5, 25_000), ["rows new or changed"]),
        ((3, 5, 25_000), ["rows new or changed"]),
        ((500, 400, 25_000), ["rows deleted"]),
        ((500, 5, 9_000_000), ["sum of amount"]),
        ((500, 5, -9_000_000), ["sum of amount"]),
        ((5_000, 400, 250_000), ["rows new or changed", "rows deleted", "sum of amount"]),
    ],
)
def test_what_leaves_the_band_is_flagged(batch: tuple[int, int, object], flagged: list[str]) -> None:
    assert odd(*USUAL, batch) == flagged


def test_one_odd_batch_in_the_history_does_not_widen_the_band() -> None:
    history = [*USUAL[:4], (400_000, 3_000, 90_000_000), *USUAL[4:]]
    assert odd(*history, (5_000, 5, 25_000)) == ["rows new or changed"]
    assert odd(*history, (500, 5, 25_000)) == []


def test_a_new_level_is_usual_once_it_has_lasted() -> None:
    """Nobody has to acknowledge anything: more than half of the history is of the new level."""
    assert odd(*USUAL, *[(5_000 + d, 5, 250_000) for d in range(10)], (5_003, 5, 250_000)) == []


@pytest.mark.parametrize("batch", [(1, 0, 10), (12, 0, 700), (40, 20, 2_500), (0, 3, -150)])
def test_a_few_rows_more_or_less_in_a_table_that_hardly_changes_are_no_news(
    batch: tuple[int, int, object],
) -> None:
    assert odd(*[(2, 0, 100)] * 10, batch) == []


def test_few_batches_are_no_history() -> None:
    few = [(500, 5, 25_000)] * ENOUGH
    assert measures("sale", manifests(*few[1:], (9_000, 0, 0))) == []
    assert odd(*few, (9_000, 5, 25_000)) == ["rows new or changed"]
    result = volume_check(KEY, "sale", manifests(*few[1:], (9_000, 0, 0)))
    assert result.passed
    assert result.description == "not enough history: fewer than 5 of the last 30 batches changed the table"


def test_batches_that_did_not_change_the_table_do_not_count() -> None:
    with_pauses = [item for usual in USUAL for item in (None, usual, None)]
    assert odd(*with_pauses, (5_000, 5, 25_000)) == ["rows new or changed"]
    assert odd(*with_pauses, (500, 5, 25_000)) == []
    assert measures("sale", manifests(*USUAL, None)) == []


@pytest.mark.parametrize("unknown", [None, "NaN"])
def test_a_sum_that_is_not_known_is_not_compared(unknown: str | None) -> None:
    history = manifests(*USUAL)
    broken = history[-1].tables["sale"].model_copy(update={"controls": {"amount": Control(sum=unknown)}})
    last = history[-1].model_copy(update={"batch": 99, "tables": {"sale": broken}})
    found = {measure.name for measure in measures("sale", [*history, last])}
    assert {"rows new or changed", "rows deleted"} <= found
    assert volume_check(KEY, "sale", [*history, last]).check_name == "volume_is_usual"
    if unknown == "NaN":
        assert "sum of amount" not in found


def test_a_table_without_rows_or_sums_is_judged_by_its_counts() -> None:
    assert odd(*[(0, 1, 0)] * 8, (5_000, 0, 0)) == ["rows new or changed"]
    made = [m.model_copy(update={"tables": {"sale": m.tables["sale"].model_copy(update={"controls": {}})}})
            for m in manifests(*USUAL, (500, 5, 0))]  # fmt: skip
    assert [m.name for m in measures("sale", made)] == ["rows new or changed", "rows deleted"]


def test_the_check_explains_itself() -> None:
    result = volume_check(KEY, "sale", manifests(*USUAL, (5_000, 5, 25_000)))
    assert not result.passed
    assert result.severity == dg.AssetCheckSeverity.WARN
    assert result.description is not None
    assert result.description.startswith(
        "rows new or changed 5,000 is more than usual: 369.50 to 640.50, median 505 of 8 batches"
    )
    plotted = {
        name: float(str(value.value))
        for name, value in result.metadata.items()
        if name.startswith("rows new")
    }
    assert plotted == pytest.approx(
        {
            "rows new or changed": 5000,
            "rows new or changed: usual from": 369.5,
            "rows new or changed: usual to": 640.5,
        },
        abs=0.1,
    )


@given(
    st.lists(st.integers(0, 10**9), min_size=1, max_size=HISTORY),
    st.integers(0, 10**9),
    st.integers(1, 10**4),
)
def test_a_value_is_never_outside_the_band_if_all_before_it_were_equal_to_it(
    history: list[int], value: int, floor: int
) -> None:
    measure = Measure("rows", Decimal(value), [*map(Decimal, history)], Decimal(floor))
    low, high = measure.band
    assert low <= measure.usual <= high
    assert measure.is_usual == (low <= value <= high)
    assert Measure("rows", Decimal(value), [Decimal(value)] * len(history), Decimal(floor)).is_usual


def test_the_comparison_costs_a_run_next_to_nothing() -> None:
    history = manifests(*USUAL * 4)
    started = time.process_time()
    for _ in range(11):
        volume_check(KEY, "sale", history)
    assert time.process_time() - started < 0.05


# -- in the flow -----------------------------------------------------------------------------------------------------


@pytest.fixture
def capture(bicycles: str, tmp_path: Path) -> Callable[[int], Run]:
    """Capture one table after so many of its rows changed."""
    flow = Flow(bicycles, tmp_path)

    def after(changed: int) -> Run:
        if changed:
            execute(
                bicycles,
                "UPDATE hire SET minutes = minutes + 1 WHERE hire_id IN "
                "(SELECT hire_id FROM hire ORDER BY hire_id LIMIT %s)",
                changed,
            )
        return flow.run("raw/hire")

    return after


def test_an_odd_batch_is_a_warning_and_the_run_goes_on(capture: Callable[[int], Run]) -> None:
    for changed in (0, 3, 4, 3, 5, 4):
        run = capture(changed)
        assert all(check.passed for check in run.result.get_asset_check_evaluations())
    run = capture(200)
    assert run.success
    (failed,) = [check for check in run.result.get_asset_check_evaluations() if not check.passed]
    assert failed.asset_key.to_user_string() == "raw/hire"
    assert failed.severity == dg.AssetCheckSeverity.WARN
    assert "rows new or changed 200 is more than usual" in (failed.description or "")
    assert capture(0).result.get_asset_check_evaluations() == []


# -- freshness -------------------------------------------------------------------------------------------------------


def test_raw_and_warehouse_are_late_after_a_missed_night_and_wrong_after_two(tmp_path: Path) -> None:
    specs = Flow("postgresql://nobody", tmp_path).definitions().resolve_all_asset_specs()
    policies = {spec.freshness_policy for spec in specs if spec.key.path[0] in ("raw", "warehouse")}
    assert policies == {
        dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=25), fail_window=timedelta(hours=49))
    }
