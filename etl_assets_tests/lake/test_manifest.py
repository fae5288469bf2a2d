"""What a manifest says in words."""

from datetime import UTC, datetime

from etl_assets.lake.manifest import (
    FORMAT,
    MAIN,
    Manifest,
    SourceIdentity,
    SourceState,
    TableChanges,
    TableState,
    in_words,
)


def batch_of(changes: dict[str, tuple[int, int, int]]) -> Manifest:
    """A batch that brought so many new, changed and deleted rows, by table."""
    server = SourceIdentity(system_identifier=None, timeline=None, database="d", version="18")
    source = SourceState(
        identity=server,
        snapshot="1:1:",
        horizon=1,
        next_transaction=1,
        lsn="0/1",
        server_time=datetime(2026, 1, 2, tzinfo=UTC),
    )
    tables = {
        name: TableState.model_construct(
            source=MAIN,
            read_in=7,
            changes=TableChanges.model_construct(new=new, changed=changed, deleted=deleted),
        )
        for name, (new, changed, deleted) in changes.items()
    }
    made = Manifest(
        format=FORMAT,
        batch=7,
        lake="",
        run_id="",
        previous=None,
        sources={MAIN: source},
        seconds=0,
        tables={},
    )
    return made.model_copy(update={"tables": tables})


def test_a_sentence_names_each_table_and_what_came_changed_and_went() -> None:
    said = in_words(batch_of({"orders": (1200, 3, 0), "payment": (0, 0, 4)}), told=True)
    assert said == "batch 000007 as of 2026-01-02 00:00:00 UTC: orders +1,200 ~3, payment -4"


def test_a_sentence_of_many_tables_names_those_with_most_rows_and_counts_the_others() -> None:
    many = {f"t{n:03d}": (n, 1, 0) for n in range(500)}
    said = in_words(batch_of(many), told=True)
    named = ", ".join(f"t{n} +{n} ~1" for n in range(488, 500))
    assert said.endswith(f"UTC: {named}, and {sum(range(488)) + 488:,} rows of 488 more tables")
