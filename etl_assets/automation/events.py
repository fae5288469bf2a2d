"""Dagster's history in SQLite, with events in less room and less time. `dagster.yaml` names it as the storage.

Tables and files are Dagster's own. What differs:

    events are packed   one is a few words in a kilobyte of JSON that is the same each time
    files stay open     Dagster opens and closes a file, and looks for its tables, for each event
    shortened           of a run that succeeded goes what only its continuation would need, what was planned and handed on,
                        and from its file all tables but that of its events: each takes a page, and so do their indexes

What Dagster's own storage wrote can be read; it can't read what is packed.
"""

import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from dagster._core.events import DagsterEventType
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetKeyTable,
    SqlEventLogStorageMetadata,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy.engine import Connection, Dialect, Engine
from sqlalchemy.pool import NullPool, StaticPool
from sqlalchemy.schema import DropIndex, DropTable

_PLANNED = [
    DagsterEventType.ASSET_MATERIALIZATION_PLANNED.value,
    DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED.value,
]
_HANDED_ON = [
    kind.value
    for kind in (
        DagsterEventType.STEP_INPUT,
        DagsterEventType.STEP_OUTPUT,
        DagsterEventType.LOADED_INPUT,
        DagsterEventType.HANDLED_OUTPUT,
        DagsterEventType.RESOURCE_INIT_STARTED,
        DagsterEventType.RESOURCE_INIT_SUCCESS,
    )
]
_OPEN_FILES = 4
_PACKED = b"\x01"
"""What a packed event begins with; other ways to pack would begin with other bytes."""
# What events have in common, as zlib wants it: the most common last. What is packed can be read with just this text.
_COMMON = (
    b'"error": {"__class__": "SerializableErrorInfo", "cause": null, "cls_name": "", "stack": [], "message": ""}, '
    b'"dagster/input_data_version/star/", "dagster/input_event_pointer/star/", "dagster/input_data_version/raw/": '
    b'"dagster/input_event_pointer/raw/": "__ASSET_JOB", "exports", "source", "capture", "certificate", "derive_star", '
    b'"AssetObservation" {"__class__": "JsonMetadataEntryData", "data": {}}, {"__class__": "MarkdownMetadataEntryData", "md_str": '
    b'"| --- | --- | --- |\\n| "}, "label": "preview"}, {"__class__": "TimestampMetadataEntryData", "value": '
    b'{"__class__": "TableMetadataEntryData", "records": [{"__class__": "TableRecord", "data": {"in": "source", "rows": "'
    b'"schema": {"__class__": "TableSchema", "columns": [{"__class__": "TableColumn", "constraints": {"__class__": '
    b'"TableColumnConstraints", "nullable": true, "other": [], "unique": false}, "description": null, "name": "'
    b'"event_specific_data": {"__class__": "AssetCheckEvaluation", "asset_key": {"__class__": "AssetKey", "path": ["warehouse", "'
    b'"blocking": true, "check_name": "equals_the_source", "references_resolve", "is_sound", "volume_is_usual", "description": '
    b'null, "metadata": {}, "partition": null, "severity": {"__enum__": "AssetCheckSeverity.ERROR"}, "success": true, '
    b'"target_materialization_data": {"__class__": "AssetCheckEvaluationTargetMaterializationData", "run_id": "", "storage_id": '
    b', "timestamp": 17}}, "event_type_value": "ASSET_CHECK_EVALUATION", "Asset check \'\' on \'star/\' passed."'
    b'"event_specific_data": {"__class__": "AssetMaterializationPlannedData", "asset_key": {"__class__": "AssetKey", "path": ["'
    b'"partition": null, "partitions_subset": null}, "event_type_value": "ASSET_MATERIALIZATION_PLANNED", "logging_tags": {}, '
    b'"message": "etl intends to materialize asset [\\"", "\\"]", "pid": null, "ASSET_CHECK_EVALUATION_PLANNED" '
    b'"AssetCheckEvaluationPlanned" "intends to execute asset check " on asset "solid_handle": null, "step_handle": null, '
    b'"event_specific_data": {"__class__": "StepOutputData", "metadata_entries": [], "step_output_handle": {"__class__": '
    b'"StepOutputHandle", "mapping_key": null, "output_name": "star__dim_", "step_key": "load"}, "type_check_data": {"__class__": '
    b'"TypeCheckData", "description": null, "label": "", "metadata_entries": [], "success": true}, "version": null}, '
    b'"event_type_value": "STEP_OUTPUT", Yielded output \\" of type \\"Nothing\\". (Type check passed)."'
    b'{"__class__": "EventLogEntry", "dagster_event": {"__class__": "DagsterEvent", "event_specific_data": {"__class__": '
    b'"StepMaterializationData", "asset_lineage": [], "materialization": {"__class__": "AssetMaterialization", "asset_key": '
    b'{"__class__": "AssetKey", "path": ["warehouse", "star", "raw", "fact_", "dim_"]}, "description": null, "metadata_entries": ['
    b'{"__class__": "EventMetadataEntry", "description": null, "entry_data": {"__class__": "TextMetadataEntryData", "text": "'
    b'{"__class__": "FloatMetadataEntryData", "value": 0.'
    b'{"__class__": "BoolMetadataEntryData", "value": true}, "label": "unchanged"}, {"__class__": "EventMetadataEntry", '
    b'"description": null, "entry_data": {"__class__": "IntMetadataEntryData", "value": 0}, "label": "dagster/row_count"}, '
    b'"label": "rows new"}, "label": "batch"}, "label": "seconds"}, "partition": null, "tags": {"dagster/code_version": "'
    b'", "dagster/data_version": "", "dagster/data_version_is_user_provided": "true"}}}, "event_type_value": '
    b'"ASSET_MATERIALIZATION", "logging_tags": {"job_name": "etl", "op_name": "load", "resource_fn_name": "None", '
    b'"resource_name": "None", "run_id": "", "step_key": "load"}, "message": "Materialized value warehouse .", "pid": , '
    b'"pipeline_name": "etl", "solid_handle": {"__class__": "SolidHandle", "name": "load", "parent": null}, "step_handle": '
    b'{"__class__": "StepHandle", "key": "load", "solid_handle": {"__class__": "SolidHandle", "name": "load", "parent": null}}, '
    b'"step_key": "load", "step_kind_value": "COMPUTE"}, "error_info": null, "level": 10, "message": "", "pipeline_name": "etl", '
    b'"run_id": "", "step_key": "load", "timestamp": 17.0, "user_message": ""}'
)


def packed(text: str) -> bytes:
    """A serialized event in as little room as it needs."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=_COMMON)
    return _PACKED + compressor.compress(text.encode()) + compressor.flush()


def unpacked(content: "str | bytes") -> str:
    """A serialized event as it was, packed or not."""
    if isinstance(content, str):
        return content
    return zlib.decompressobj(-15, zdict=_COMMON).decompress(content.removeprefix(_PACKED)).decode()


class _Event(sa.types.TypeDecorator[str]):
    """A column of serialized events, packed where a storage of this module writes."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        return packed(value) if value is not None and getattr(dialect, "packs_events", False) else value

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else unpacked(value)


_COLUMNS = (
    SqlEventLogStorageTable.c.event,
    AssetKeyTable.c.last_materialization,
    AssetCheckExecutionsTable.c.evaluation_event,
)


class SmallEventLog(SqliteEventLogStorage):
    """Dagster's storage of events in SQLite; `base_dir` is the folder, as of Dagster's own."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        self._tables: set[str] = set()
        for column in _COLUMNS:
            column.type = _Event()
        super().__init__(base_dir, inst_data)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> "SmallEventLog":
        return cls(inst_data=inst_data, **config_value)

    def has_table(self, table_name: str) -> bool:
        if table_name not in self._tables and super().has_table(table_name):
            self._tables.add(table_name)
        return table_name in self._tables

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock, self._engine(shard).begin() as connection:
            yield connection

    def _engine(self, shard: str) -> Engine:
        """The engine of a file, which stays open until others are asked for."""
        if shard not in self._initialized_dbs:
            self._initdb(sa.create_engine(self.conn_string_for_shard(shard), poolclass=NullPool))
            self._initialized_dbs.add(shard)
        if shard not in self._engines:
            self._engines[shard] = _kept_open(self.conn_string_for_shard(shard))
            while len(self._engines) > _OPEN_FILES:
                self._engines.popitem(last=False)[1].dispose()
        self._engines.move_to_end(shard)
        return self._engines[shard]

    def store_event(self, event: EventLogEntry) -> None:
        super().store_event(event)
        if event.is_dagster_event and event.dagster_event_type == DagsterEventType.RUN_SUCCESS:
            self._shorten(event.run_id)

    def _shorten(self, run_id: str) -> None:
        events = SqlEventLogStorageTable
        kind = events.c.dagster_event_type
        with self.index_connection() as connection:
            connection.execute(events.delete().where(events.c.run_id == run_id, kind.in_(_PLANNED)))
        with self.run_connection(run_id) as connection:
            connection.execute(events.delete().where(kind.in_([*_PLANNED, *_HANDED_ON])))
            for table in reversed(SqlEventLogStorageMetadata.sorted_tables):
                if table is not events:
                    connection.execute(DropTable(table, if_exists=True))
            for index in events.indexes:
                connection.execute(DropIndex(index, if_exists=True))
        with self._db_lock, self._engine(run_id).connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(sa.text("VACUUM"))

    def forget_file(self, run_id: str) -> None:
        """Close the file of a run that is to be removed."""
        with self._db_lock:
            self._initialized_dbs.discard(run_id)
            if engine := self._engines.pop(run_id, None):
                engine.dispose()

    def wipe(self) -> None:
        for shard in list(self._engines):
            self.forget_file(shard)
        super().wipe()

    def dispose(self) -> None:
        for shard in list(self._engines):
            self.forget_file(shard)
        super().dispose()


class SmallHistory(DagsterSqliteStorage):
    """Runs, events and ticks below `base_dir`, as Dagster's own storage keeps them there."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir, inst_data)
        self._event_log_storage = SmallEventLog(str(Path(base_dir, "history", "runs")))

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> "SmallHistory":
        return cls.from_local(inst_data=inst_data, **config_value)


def _kept_open(address: str) -> Engine:
    """An engine with one connection. A history that loses its last moments when the machine fails is none the worse."""
    options = {"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "check_same_thread": False}
    engine = sa.create_engine(address, poolclass=StaticPool, connect_args=options)
    engine.dialect.packs_events = True  # type: ignore[attr-defined]  # only here: others could not read it

    @sa.event.listens_for(engine, "connect")
    def set_up(connection: Any, record: object) -> None:
        connection.execute("PRAGMA synchronous = NORMAL")

    return engine
