"""What may go wrong, what is promised then, and the tests that hold it: `docs/reliability.md` is made from this.

A test says by `@pytest.mark.fault("F5")` which rows it holds: it turns red when the row's promise is false. What was broken
on purpose to see that is in `mutations`.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from etl_assets_tests.mutations import DAY, MUTATIONS

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs/reliability.md"

PROMISES: Mapping[str, str] = {
    "R1": "A published version is there whole or not at all, for all tables together.",
    "R2": "A published version equals the source at one instant that it names, and that can be proven.",
    "R3": "A run that is repeated, however often, or that was killed, anywhere, ends with the same content.",
    "R4": "No row that came in is gone without a quarantine record that says why.",
    "R5": "How far the source was read is noted only with what was read.",
    "R6": "A value that can't be represented fails or is quarantined by name. None is altered.",
    "R7": "An export shows all of the new state or all of the old one.",
    "R8": "No secret and nothing personal is in a log, in metadata, in the history or in an error.",
}


@dataclass(frozen=True)
class Fault:
    """A row: what goes wrong, what is to happen then, and which promises that keeps."""

    name: str
    promises: str
    happens: str
    expected: str


FAULTS: tuple[Fault, ...] = (
    Fault("F1", "R1 R3 R5 R7", "A run is killed (SIGKILL) before or after any side effect, or at any instant",
          "Readers have the old version whole or the new one; the next run ends like one that was never disturbed; nothing has to "
          "be unlocked."),
    Fault("F2", "R3", "Daemon, code server, worker or interface are killed while a run goes on",
          "The run is told as failed, holds nobody up, and what changed arrives all the same."),
    Fault("F3", "R1 R3", "Two runs fill one lake at the same time",
          "One waits, or is refused with the name of the other; the result is that of one after the other."),
    Fault("F4", "R3", "A run by hand, a schedule, a sensor and a backfill overlap",
          "They are queued or take turns; none is started for what another one takes already."),
    Fault("F5", "R1 R2 R3", "The source goes away while it is read: session ended, server stopped at once, network cut, slow or silent",
          "One line; nothing of the batch can be seen; the next attempt takes a new snapshot of all tables."),
    Fault("F6", "R2", "The source is another server, was promoted, or was restored from a backup",
          "It is noticed by identity, timeline, log and transaction counter: refused until it is meant, or read whole."),
    Fault("F7", "R2 R4", "A transaction is open while runs go by, has savepoints, is prepared, or ids wrap around",
          "Its rows arrive with the first batch after its commit, whatever was read in between."),
    Fault("F8", "R2 R3", "A limit of the server ends the snapshot, or a standby cancels it",
          "Limits of role and database are lifted; what ends a read all the same is named with what to do, and tried again so often."),
    Fault("F9", "R3", "Time limits, locks, too few connections",
          "Fewer connections do the work; what may pass is tried again with pauses, what stays is said at once."),
    Fault("F10", "R1 R3", "The disk is full, at any place of a run",
          "One line with the path; no half a file; the old version stays; with room again the next run has all."),
    Fault("F11", "R1 R3", "A folder can't be written, or no more files may be opened",
          "One line with the path; nothing is half there; the next run has all."),
    Fault("F12", "R1 R3", "The object store answers 500, 503, SlowDown, too late or not at all",
          "Tried again within limits, also where only the answer was lost; then one line."),
    Fault("F13", "R1", "An upload ends in the middle",
          "The object can't be seen; what was begun is removed once nobody can be at it."),
    Fault("F14", "R1", "Two writers put the same object",
          "One wins; the other learns it, also when the answer was lost."),
    Fault("F15", "R2 R4", "A landed file or manifest is altered, cut, lost or swapped",
          "Nothing is read from it, it is named, and `etl repair` brings back what is still known."),
    Fault("F16", "R2", "A Parquet file or the manifest of the star is damaged",
          "It is noticed and made again from the batches."),
    Fault("F17", "R3", "Dagster's history is damaged, lost or locked, or the star is deleted",
          "What is damaged of the history is set aside, one line says so, and another one is begun; all state that counts is made again from manifests."),
    Fault("F18", "R2 R6", "Text with quotes, line breaks, separators, `\\.`, empty, NULL, many megabytes",
          "It is the same at the end as at the beginning, character by character."),
    Fault("F19", "R6", "NaN, infinity, numbers without bound, years BC and beyond 9999, 24:00:00, zones",
          "Exact, or quarantined with the reason; never altered, whatever role and database have set."),
    Fault("F20", "R2 R6", "Columns are added, dropped, renamed, reordered, retyped, between runs and during one",
          "The copy follows with the right values, or the batch stops with a line, as the table declares."),
    Fault("F21", "R2", "A table is truncated, rewritten, empty, partitioned, a view, gone",
          "What it holds is held; more deletions than are plausible stop the batch with a question."),
    Fault("F22", "R4 R6", "Rows that don't fit: types, keys that occur twice",
          "Quarantined by key, column and reason; rows in are rows out and quarantined rows; too many stop the run."),
    Fault("F23", "R2", "A fact comes before the member it refers to",
          "A stand-in takes the place and is filled in when the member comes; the fact keeps its key."),
    Fault("F24", "R3", "The same page, file, batch or export once more",
          "Nothing changes."),
    Fault("F25", "R1 R3", "An older state comes after a newer one",
          "It never takes the newer one's place."),
    Fault("F26", "R2 R3", "The clock is days off or goes back, in any time zone",
          "Content depends on the source's snapshot alone; order is that of the runs, whatever their clock said."),
    Fault("F27", "R2", "`last_updated` is wrong, NULL, in the future, or never moves; or rows change behind PostgreSQL's back",
          "What a transaction changed arrives by its row version; what no version tells of is found by a sweep."),
    Fault("F28", "R2", "Rows are deleted, come back, or change their keys",
          "The history shows each of it."),
    Fault("F29", "R3 R7", "BigQuery refuses, fails, or does not say how a job ended",
          "A job is done once; what passes is tried again, a quota that is used up is not."),
    Fault("F30", "R7", "BigQuery's dataset is elsewhere, types differ, credentials expired",
          "One line before anything is written."),
    Fault("F31", "R6 R7", "Sheets: limits, quota, a tab that is gone, no access, failure at any request",
          "What does not fit is refused before; old tabs or new tabs, whole."),
    Fault("F32", "R6", "Values that a spreadsheet would take for formulas",
          "They stay text, and numbers stay numbers."),
    Fault("F33", "R2", "Names and values with SQL in them",
          "They are names and values, nothing else."),
    Fault("F34", "R1", "Names, partitions and manifests that lead out of a folder",
          "Refused; distinct names never meet."),
    Fault("F35", "R8", "A secret is missing, wrong, rotated, or in a URL",
          "One line that says what to do; the secret is nowhere in logs, history, metadata, files or process lists."),
    Fault("F36", "R8", "The interface is reached by others, or asked by a page of another origin",
          "It listens to this machine unless told so by name, and does nothing that it refuses."),
    Fault("F37", "R3 R4", "A REST API limits, fails, drifts, never ends, redirects inwards, sends too much",
          "Within its rate and budget, each good record once; it goes on where it stopped; the rest is told."),
    Fault("F38", "R3", "Tables are much larger than memory",
          "They are read as streams, and the server keeps no more for many rows; what the memory is too small for is named, and nothing "
          "is committed of it."),
    Fault("F39", "R1 R3", "SIGTERM, Ctrl-C",
          "It stops within seconds, also at the server, leaves nothing, and can be repeated."),
    Fault("F40", "R1 R3 R7", "The n-th call fails: of the system, of a database, of a service; once or for good",
          "Whatever n: the state is the old one or the new one, and the next run is right."),
    Fault("F41", "R3", "State of the version before, or of a newer one",
          "The former is carried on, the latter refused as such."),
    Fault("F42", "R3", "No home, no network, folders of any name, missing programs",
          "It runs, or says in one line what is missing."),
    Fault("F43", "R1 R2 R3 R4", "All of it at random, while somebody writes",
          "Every version that was ever published equals the source as of its snapshot."),
)  # fmt: skip


@dataclass(frozen=True)
class Held:
    """A test that holds rows. `when`: the target that runs it, other than `make test`."""

    test: str
    faults: tuple[str, ...]
    when: str


def marked() -> Iterator[Held]:
    """All tests that are marked with rows, in the order of their files."""
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marks = dict(_marks(node))
                if "fault" in marks:
                    name = f"{path.relative_to(TESTS)}::{node.name}"
                    yield Held(name, tuple(marks["fault"]), _when(path, marks))


def _marks(node: ast.FunctionDef) -> Iterator[tuple[str, list[str]]]:
    """The markers of a test, and their arguments that are texts."""
    for decorator in node.decorator_list:
        call = decorator if isinstance(decorator, ast.Call) else None
        name = ast.unparse(call.func if call else decorator)
        if name.startswith("pytest.mark."):
            arguments = call.args if call else []
            texts = [a.value for a in arguments if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            yield name.removeprefix("pytest.mark."), texts


def _when(path: Path, marks: Mapping[str, object]) -> str:
    from etl_assets_tests.conftest import _DAMAGE, _PLACES

    for marker in ("slow", "soak", "browser"):
        if marker in marks or path.is_relative_to(TESTS / marker):
            return f"test-{marker}"
    for when, paths in (("test-places", _PLACES), ("test-damage", _DAMAGE)):
        if any(path.is_relative_to(TESTS / place) for place in paths):
            return when
    return "test"


def unheld() -> list[str]:
    """Rows that no test holds outside of the slow ones, and markers that name no row."""
    held = list(marked())
    quick = {fault for one in held if one.when != "test-slow" for fault in one.faults}
    known = [fault.name for fault in FAULTS]
    named = {fault for one in held for fault in one.faults} | {m.fault for m in MUTATIONS}
    return [*(name for name in known if name not in quick), *sorted(named - set(known))]


def page() -> str:
    """The text of `docs/reliability.md`."""
    return "\n".join(_page()) + "\n"


def _page() -> Iterator[str]:
    held = list(marked())
    unbroken = [fault.name for fault in FAULTS if not any(m.fault == fault.name for m in MUTATIONS)]
    yield "# What may go wrong, and which test holds it\n"
    yield (
        "Made from the tests by `etl_assets_tests/reliability.py`; a test turns red when it is stale, or when a row has no test. "
        "Every row is run before a change is merged, but for what `make test-slow` alone runs; where a test is run by another "
        "target than `make test`, that is said behind it.\n"
    )
    yield from (f"- **{name}** {text}" for name, text in PROMISES.items())
    yield (
        "\nUnder a row: what was broken in the code on purpose, and the test that turned red then. "
        f"`make test-mutations` does it again, in a copy; last on {DAY}: {len(MUTATIONS)} of {len(MUTATIONS)} turned red. "
        + (f"Not broken on purpose: {', '.join(unbroken)}." if unbroken else "Each row has one at least.")
        + "\n"
    )
    for fault in FAULTS:
        yield f"## {fault.name} · {fault.happens}\n"
        yield f"{fault.expected} *({', '.join(fault.promises.split())})*\n"
        for one in held:
            if fault.name in one.faults:
                yield f"- `{one.test}`" + ("" if one.when == "test" else f" (`make {one.when}`)")
        for mutation in MUTATIONS:
            if mutation.fault == fault.name:
                yield f"- broken: {mutation.what} (`{mutation.file}`) → `{mutation.test.partition('::')[2]}`"
        yield ""
