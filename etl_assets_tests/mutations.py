"""Mistakes that were put into the code on purpose, one for each row of `docs/reliability.md`, and the test that finds each.

    python -m etl_assets_tests.mutations            all of them, in a copy of the work tree
    python -m etl_assets_tests.mutations F5 F14     those of some rows

A mistake is a piece of text that occurs once in a file, and what takes its place. That the piece is still there is looked at
by `test_reliability`; whether its test still turns red takes minutes.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DAY = "2026-11-27"
"""When all of them were made last, and turned their tests red."""
_FAILED = 1  # how pytest ends when tests failed, and not when something else did


@dataclass(frozen=True)
class Mutation:
    """`fault`: the row. `what`: the mistake in words. `right`: the text in `file`, below `etl_assets`, whose place `wrong`
    takes. `test`: what turns red, below `etl_assets_tests`."""

    fault: str
    what: str
    file: str
    right: str
    wrong: str
    test: str


MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        "F1", "the load is no transaction", "warehouse/duckdb.py",
        'connection.execute("BEGIN")  # closing', 'connection.execute("SELECT 1")  # closing',
        "test_kill.py::test_after_a_kill_readers_have_a_whole_version_and_running_again_goes_on",
    ),
    Mutation(
        "F2", "nobody looks whether a run's process is still there", "automation/orphans.py",
        "        if _is_gone(process) if process else", "        if False if process else",
        "automation/test_source_changed.py::test_a_run_of_a_process_that_was_killed_is_ended_and_holds_nobody_up",
    ),
    Mutation(
        "F3", "the lake is not claimed", "source/snapshot.py",
        "cursor.execute(_TAKE, (_LOCK_CLASS, lock))", 'cursor.execute("SELECT true")',
        "capture/test_overlap.py::test_a_second_run_that_may_not_wait_is_refused_with_the_name_of_the_first",
    ),
    Mutation(
        "F4", "the schedule asks although a run waits", "automation/jobs.py",
        "elif underway and underway.status in NOT_BEGUN:", "elif underway and underway.status in ():",
        "automation/test_source_changed.py::test_the_schedule_asks_unless_a_run_waits_already",
    ),
    Mutation(
        "F5", "what a failed run landed is left", "raw/landing.py",
        "            landing.withdraw()\n            if isinstance(error, LakeError)", "            if isinstance(error, LakeError)",
        "capture/test_network.py::test_a_connection_that_is_cut_anywhere_ends_in_one_line_and_leaves_nothing",
    ),
    Mutation(
        "F5", "silence is waited for as long as the system does", "source/connection.py",
        '{"connect_timeout": connect_seconds, **_ALIVE}', '{"connect_timeout": connect_seconds}',
        "capture/test_network.py::test_both_ends_notice_within_two_minutes_that_the_other_one_is_gone",
    ),
    Mutation(
        "F5", "a connection that was lost is no reason to try again", "source/connection.py",
        "error.pgcode is None:  # amid a COPY: nobody could say more\n        return SourceInterrupted(",
        "error.pgcode is None:  # amid a COPY: nobody could say more\n        return SourceError(",
        "capture/test_network.py::test_a_connection_that_is_cut_anywhere_ends_in_one_line_and_leaves_nothing",
    ),
    Mutation(
        "F6", "an older state is not noticed", "source/identity.py",
        "    if older := older_by(latest, instant):", '    if older := "" and older_by(latest, instant):',
        "capture/test_identity.py::test_a_backup_is_refused_and_a_promoted_copy_read_whole",
    ),
    Mutation(
        "F7", "the horizon is the newest transaction, as a cursor would have it", "source/snapshot.py",
        "pg_snapshot_xmin(pg_current_snapshot())", "pg_snapshot_xmax(pg_current_snapshot())",
        "capture/test_late_commits.py::test_late_commits_and_deletions_arrive_with_the_next_batch",
    ),
    Mutation(
        "F8", "the role's own time limit holds", "source/connection.py",
        "    SET statement_timeout = 0;\n", "",
        "capture/test_servers.py::test_nobody_s_time_limits_end_a_read",
    ),
    Mutation(
        "F9", "all connections are needed", "source/snapshot.py",
        "                break  # a limit on connections", "                raise  # a limit on connections",
        "capture/test_servers.py::test_fewer_connections_than_wanted_do_the_work",
    ),
    Mutation(
        "F10", "half a file stays", "lake/folder.py",
        "            finally:\n                local.unlink(missing_ok=True)\n", "            finally:\n                pass\n",
        "lake/test_files.py::test_a_full_disk_is_one_line_and_leaves_the_old_version",
    ),
    Mutation(
        "F11", "what the system says is handed on as it is", "lake/folder.py",
        "            yield\n        except OSError as error:\n            raise LakeError(\n                f\"can't write",
        "            yield\n        except ProcessLookupError as error:\n            raise LakeError(\n                f\"can't write",
        "lake/test_files.py::test_a_lake_that_can_not_be_written_or_read_is_one_line",
    ),
    Mutation(
        "F12", "no request is repeated", "lake/object_store.py",
        "stop=stop_after_attempt(patience.attempts)", "stop=stop_after_attempt(1)",
        "lake/test_object_faults.py::test_a_lake_is_the_same_when_requests_failed_meanwhile",
    ),
    Mutation(
        "F12", "who created an object takes himself for the second", "lake/object_store.py",
        "if attempts == 1 or self.read(path) != content:", "if True:",
        "lake/test_object_faults.py::test_who_created_a_file_learns_it_although_the_answer_got_lost",
    ),
    Mutation(
        "F13", "an upload that failed is not aborted", "lake/s3.py",
        "            self.bucket.client.abort_multipart_upload(**self.named)", "            pass",
        "lake/test_files.py::test_an_error_while_writing_leaves_the_old_version_and_no_trace",
    ),
    Mutation(
        "F13", "what a killed writer left stays", "lake/folder.py",
        "                    leftover.unlink(missing_ok=True)\n", "                    pass\n",
        "lake/test_files.py::test_a_writer_that_is_killed_leaves_nothing_that_can_be_seen",
    ),
    Mutation(
        "F14", "an object is put whether it is there or not", "lake/s3.py",
        'Body=content, IfNoneMatch="*", ', "Body=content, ",
        "lake/test_files.py::test_of_eight_threads_that_create_a_file_one_wins",
    ),
    Mutation(
        "F15", "a manifest need not name the one before", "lake/batches.py",
        "if manifest.format >= FORMAT and before is not None and manifest.previous != before:", "if False:",
        "lake/test_format.py::test_a_manifest_that_was_edited_so_that_it_passes_is_found_by_the_next",
    ),
    Mutation(
        "F15", "landed files are not compared with their hashes", "lake/current.py",
        "        if file.path not in self._verified:\n", "        if False:\n",
        "lake/test_batches.py::test_a_damaged_file_is_named_and_nothing_is_read_from_it",
    ),
    Mutation(
        "F16", "a file of the star is believed", "star/files.py",
        "== file.checksum\n", "!= None\n",
        "lake/test_star.py::test_a_damaged_file_is_found_by_the_next_run_which_makes_it_again",
    ),
    Mutation(
        "F16", "a base is believed", "lake/current.py",
        "            if base.path not in self._verified and checksum(local) != base.checksum:", "            if False:",
        "lake/test_star.py::test_a_damaged_base_is_not_believed",
    ),
    Mutation(
        "F17", "a history that is locked is called damaged", "cli/environment.py",
        "    if any(sign in told for sign in _BUSY):", "    if False:",
        "test_history_damage.py::test_a_history_that_somebody_keeps_locked_is_one_line_and_nothing_is_lost",
    ),
    Mutation(
        "F18", "texts are sent without quotes", "warehouse/postgres.py",
        "file, quoted=texts)", "file)",
        "test_copy_in.py::test_every_text_arrives_also_where_it_is_all_of_a_row",
    ),
    Mutation(
        "F19", "years BC are taken for years", "engine/types.py",
        " AND {column} NOT LIKE '%BC%'", "",
        "engine/test_types.py::test_a_value_is_exact_in_the_star_or_its_row_is_quarantined",
    ),
    Mutation(
        "F20", "a column that was replaced by one of its name is not noticed", "raw/plan.py",
        "    if held.layout != relation.layout:", "    if False:",
        "capture/test_drift.py::test_what_changes_values_without_writing_a_row_is_noticed",
    ),
    Mutation(
        "F21", "any share of a table may be deleted", "raw/landing.py",
        "        if deleted > max(share * held.rows, FEW_ROWS) and", "        if False and",
        "test_increments.py::test_a_mass_deletion_stops_with_a_question_and_goes_on_when_it_is_answered",
    ),
    Mutation(
        "F22", "any share of a table may be misfits", "raw/landing.py",
        "        if count > few and not", "        if False and not",
        "test_quarantine.py::test_more_misfits_than_are_plausible_stop_the_run_before_anything_is_committed",
    ),
    Mutation(
        "F22", "misfits are not written down", "engine/typing.py",
        '.filter("misfit IS NOT NULL")', '.filter("false")',
        "test_quarantine.py::test_rows_in_are_rows_out_and_quarantined_rows",
    ),
    Mutation(
        "F23", "a stand-in stays although its member came", "warehouse/load.py",
        '                    f"DELETE FROM {book} WHERE {mine} AND member_key IN "',
        '                    f"DELETE FROM {book} WHERE false AND {mine} AND member_key IN "',
        "test_warehouses.py::test_stand_ins_are_filled_in_when_the_member_comes",
    ),
    Mutation(
        "F24", "a run without a change makes a batch", "raw/landing.py",
        "any(t.worth_a_batch for t in landed.values())", "True",
        "test_flow.py::test_a_run_without_change_takes_no_batch_and_writes_nothing",
    ),
    Mutation(
        "F25", "who was overtaken shows what he made", "star/files.py",
        "if tables.get(name) != before[name] and newest and newest.batch >= batch:", "if False:",
        "lake/test_star.py::test_who_was_overtaken_does_not_take_the_star_back",
    ),
    Mutation(
        "F25", "what a run has written is named by the batches that it holds", "star/build.py",
        "file = self.star.staging(build.definition.name, self.manifest.batch)",
        "file = self.star.staging(build.definition.name, batch.batch)",
        "test_stuck.py::test_what_a_run_has_made_is_not_removed_by_one_that_publishes_an_earlier_batch",
    ),
    Mutation(
        "F25", "the clocks of machines tell which take of a window is the newer one", "apis/takes.py",
        "newest[take.window] = max(newest.get(take.window, 0.0), summary.received if summary else 0.0)",
        "newest[take.window] = summary.received if summary else 0.0",
        "apis/test_loading.py::test_of_two_takes_that_wait_the_later_one_counts",
    ),
    Mutation(
        "F26", "ages are counted to the day that the clock says", "totesys/reports.py",
        "(SELECT MAX(f.last_updated_date) AS as_of FROM star.fact_payment AS f)", "(SELECT current_date AS as_of)",
        "exports/test_reports.py::test_age_is_counted_from_the_newest_day_in_the_data_not_from_the_clock",
    ),
    Mutation(
        "F26",
        "what is old is told by this machine's clock",
        "lake/folder.py",
        "now = os.fstat(probe.fileno()).st_mtime",
        'now = __import__("time").time()',
        "lake/test_files.py::test_a_machine_whose_clock_is_ahead_removes_nothing_that_another_one_writes",
    ),
    Mutation(
        "F27", "what was found need not add up to the source's sums", "raw/reading.py",
        "if found and not strays and self._adds_up(found, held):", "if found and not strays:",
        "test_verify.py::test_a_change_that_no_row_version_tells_of_is_captured_all_the_same",
    ),
    Mutation(
        "F27", "a sweep compares nothing", "raw/reading.py",
        "            if found and not strays and", "            strays = 0\n            if found and not strays and",
        "automation/test_sweep.py::test_parts_are_swept_in_turn_and_what_is_found_is_mended_and_told",
    ),
    Mutation(
        "F28", "a row that leaves is recorded as one that is there", "star/course.py",
        '            parts += f" UNION ALL SELECT {self.declared}, true AS deleted FROM {step.left}"',
        '            parts += f" UNION ALL SELECT {self.declared}, false AS deleted FROM {step.left}"',
        "test_flow.py::test_a_fact_holds_old_and_new_version_of_what_changed_and_records_deletions",
    ),
    Mutation(
        "F29", "the same job has another name each time", "clients/bigquery_jobs.py",
        '        job_id = f"{name}_{number}"', '        job_id = f"{name}_{number}_{time.time_ns()}"',
        "resources/test_bigquery.py::test_an_append_whose_answer_was_lost_for_good_is_not_done_twice_by_the_next_run",
    ),
    Mutation(
        "F30", "where a dataset lies is not looked at", "clients/bigquery.py",
        "        if wanted and found.location.upper() != wanted.upper():", "        if False:",
        "resources/test_bigquery.py::test_a_dataset_elsewhere_is_an_error_before_anything_is_written",
    ),
    Mutation(
        "F31", "cells are not counted before", "exports/sheets.py",
        "        return held + grown + sum(page.cells for page in changed)", "        return 0",
        "resources/test_sheets.py::test_1001_cells_over_the_limit_are_refused_before_anything_is_written",
    ),
    Mutation(
        "F32", "Sheets reads texts as if somebody typed them", "clients/sheets.py",
        '"valueInputOption": "RAW"', '"valueInputOption": "USER_ENTERED"',
        "resources/test_sheets.py::test_text_stays_text",
    ),
    Mutation(
        "F32", "a formula in CSV is left as it is", "cli/output.py",
        '[f"\'{first}" if risky else first,', "[first,",
        "test_output.py::test_no_cell_is_a_formula",
    ),
    Mutation(
        "F33", "names are pasted into SQL", "source/snapshot.py",
        "    return sql.Identifier(relation.table.schema, relation.table.source_name)",
        '    return sql.SQL(f"{relation.table.schema}.{relation.table.source_name}")  # type: ignore[return-value,arg-type]',
        "capture/test_source_kinds.py::test_odd_names_are_only_names",
    ),
    Mutation(
        "F34", "a path may lead upwards", "lake/files.py",
        'pure.is_absolute() or ".." in pure.parts or', "pure.is_absolute() or",
        "lake/test_files.py::test_a_path_out_of_the_lake_is_refused",
    ),
    Mutation(
        "F35", "an address that can't be read is repeated", "source/connection.py",
        '%25 for %"\n        ) from None', '%25 for %" f", not {url}"\n        ) from None',
        "test_addresses.py::test_every_form_connects_or_is_refused_without_a_word_of_it",
    ),
    Mutation(
        "F35", "a secret is asked for once", "clients/secrets.py",
        "def _fetched(", '@__import__("functools").cache\ndef _fetched(',
        "resources/test_secrets.py::test_after_a_rotation_the_next_connection_has_the_new_secret",
    ),
    Mutation(
        "F35", "what AWS says of a refusal is repeated", "clients/secrets.py",
        'code = error.response["Error"]["Code"]\n', 'code = " ".join(error.response["Error"].values())\n',
        "resources/test_secrets.py::test_a_refusal_says_what_to_do_and_not_what_aws_quotes",
    ),
    Mutation(
        "F35", "what a driver says of an address is repeated", "source/connection.py",
        "        if quotes_a_secret(url, fault):\n", "        if False:\n",
        "test_addresses.py::test_what_the_server_repeats_of_an_address_is_not_told",
    ),
    Mutation(
        "F36", "every address is listened to", "interface/serving.py",
        ".is_loopback and not anybody:", ".is_loopback and False:",
        "interface/test_serving.py::test_other_machines_are_let_in_only_by_who_says_so",
    ),
    Mutation(
        "F36", "a page of another origin is answered", "interface/doors.py",
        "        if not all(self._is_own_page(origin, hosts[0])", "        if False and not all(self._is_own_page(origin, hosts[0])",
        "interface/test_doors.py::test_who_asks_decides",
    ),
    Mutation(
        "F37", "a redirect may lead into somebody's network", "apis/redirects.py",
        "    if not found or not all(is_public(address) for address in found):", "    if not found:",
        "apis/test_fetching.py::test_no_redirect_leads_to_a_private_address_unless_it_is_allowed",
    ),
    Mutation(
        "F37", "a total that falls while pages are read is nobody's business", "apis/accepting.py",
        "        if counts.fell and counts.take.state != LOADED:", "        if False:",
        "apis/test_drift.py::test_a_window_that_changes_between_its_pages_is_whole_or_is_fetched_anew",
    ),
    Mutation(
        "F37", "an answer may have any size", "apis/bodies.py",
        "            if left < 0:\n", "            if False:\n",
        "apis/test_fetching.py::test_what_never_ends_or_is_too_much_is_given_up",
    ),
    Mutation(
        "F37", "a secret that an answer repeats is kept", "apis/bodies.py",
        "    if api.credential and secret:", "    if False:",
        "apis/test_odd_services.py::test_a_secret_that_a_service_repeats_is_not_kept",
    ),
    Mutation(
        "F37", "a header leads to the next page only if it is written as usual", "apis/answers.py",
        'if "next" in told.get("rel", "").lower().split():', 'if told.get("rel", "") == "next":',
        "apis/test_odd_services.py::test_a_header_leads_to_the_next_page_however_it_is_written",
    ),
    Mutation(
        "F38", "the machine's memory counts, whatever a container may have", "engine/duck.py",
        '"memory.max")', '"memory.high")',
        "capture/test_large_rows.py::test_the_limit_of_a_container_is_the_one_that_counts",
    ),
    Mutation(
        "F38", "files are read in parts, however little memory there is", "engine/duck.py",
        "    if longest <= MAX_LINE_BYTES and memory_bytes() >= _PARTS_BYTES:\n", "    if longest <= MAX_LINE_BYTES:\n",
        "test_memory.py::test_a_file_that_is_larger_than_the_memory_is_read",
    ),
    Mutation(
        "F40", "a request to Sheets is made once", "clients/sheets.py",
        "stop=stop_after_attempt(self._attempts)", "stop=stop_after_attempt(1)",
        "resources/test_sheets.py::test_a_fault_at_any_one_request_is_overcome",
    ),
    Mutation(
        "F41", "a newer format is read as if it were known", "lake/manifest.py",
        "    if made_by > FORMAT_WITH_CHECKPOINTS:\n", "    if False:\n",
        "lake/test_format.py::test_a_newer_format_is_refused_as_such_and_not_as_damage",
    ),
    Mutation(
        "F39", "the server does not look whether its client is still there", "source/connection.py",
        '_CHECKED_EVERY = ("2s", "0")', '_CHECKED_EVERY = ("0", "0")',
        "test_kill.py::test_a_run_that_is_stopped_while_it_reads_leaves_nothing_behind",
    ),
    Mutation(
        "F42", "Dagster tells its makers of runs", "cli/environment.py",
        "telemetry: {enabled: false}", "telemetry: {enabled: true}",
        "test_surroundings.py::test_a_run_needs_no_home_and_goes_nowhere_and_takes_any_folder",
    ),
    Mutation(
        "F43",
        "the next read begins at the newest transaction, not at the oldest that is open",
        "raw/landing.py",
        "            horizon=self.snapshot.instant.horizon,\n",
        "            horizon=self.snapshot.instant.next_transaction,\n",
        "soak/test_soak.py::test_every_version_that_was_published_is_the_source_as_of_its_snapshot",
    ),
)  # fmt: skip


def stale(mutation: Mutation) -> str | None:
    """Why a mistake can't be made any more."""
    times = (ROOT / "etl_assets" / mutation.file).read_text().count(mutation.right)
    if times != 1:
        return f"{mutation.fault}: {times} times in {mutation.file}: {mutation.right}"
    file, _, name = mutation.test.partition("[")[0].partition("::")
    if f"def {name}(" not in (ROOT / "etl_assets_tests" / file).read_text():
        return f"{mutation.fault}: there is no {mutation.test}"
    return None


def copy_to(folder: Path) -> None:
    """The files of the work tree that git knows, or would."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def turns_red(mutation: Mutation, copy: Path) -> bool:
    """Make a mistake in a copy of the work tree, run its test, and take the mistake back."""
    path = copy / "etl_assets" / mutation.file
    before = path.read_text()
    path.write_text(before.replace(mutation.right, mutation.wrong))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--show-capture=no", "--tb=line", "-m", "",
             f"etl_assets_tests/{mutation.test}"],
            cwd=copy,
            env=os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
    finally:
        path.write_text(before)
    if done.returncode != _FAILED:
        sys.stdout.write(done.stdout[-2000:])
    return done.returncode == _FAILED


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", help="F1 … F43; all if none is named")
    rows = parser.parse_args(arguments).rows
    chosen = [mutation for mutation in MUTATIONS if not rows or mutation.fault in rows]
    unseen = 0
    with tempfile.TemporaryDirectory(prefix="etl-assets-mutations-") as name:
        Path(name).chmod(0o755)  # the tests' server has its own user if we are root
        copy_to(Path(name))
        for mutation in chosen:
            red = turns_red(mutation, Path(name))
            unseen += not red
            sys.stdout.write(
                f"{'red  ' if red else 'GREEN'} {mutation.fault:4} {mutation.what}: {mutation.test}\n"
            )
            sys.stdout.flush()
    sys.stdout.write(f"{len(chosen) - unseen} of {len(chosen)} turned red\n")
    return int(unseen > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
