"""Jobs of the BigQuery stand-in: taken under the client's id, carried out in their time, each once."""

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from etl_assets.stand_ins.bigquery_sql import Script, StatementResult
from etl_assets.stand_ins.bigquery_tables import ErrorResponse, Json, Tables
from etl_assets.stand_ins.bigquery_types import row

_STATUS = {
    "notFound": 404,
    "duplicate": 409,
    "accessDenied": 403,
    "quotaExceeded": 403,
    "rateLimitExceeded": 403,
}
_MULTI_REGIONS = {"US", "EU"}


@dataclass
class Job:
    """A job: its resource, and the answer of its last statement."""

    resource: Json
    answer: StatementResult = field(default_factory=lambda: StatementResult("NONE"))

    @property
    def id(self) -> str:
        return str(self.resource["jobReference"]["jobId"])

    @property
    def done(self) -> bool:
        return bool(self.resource["status"]["state"] == "DONE")


class Jobs:
    """The jobs of a project. `lock` is held while anything is changed or read.

    `objects` opens a gs:// URI. `fault` decides about each statement of a job (0 is a load). Jobs take `seconds`, half of
    them pending and half running. Results come in pages of `page_rows`.
    """

    def __init__(self, tables: Tables, objects: Callable[[str], bytes] | None) -> None:
        self.tables = tables
        self.project = tables.project
        self.objects = objects
        self.fault: Callable[[Json, int], ErrorResponse | None] = lambda job, statement: None
        self.seconds = 0.0
        self.page_rows = 10_000
        self.lock = threading.RLock()
        self.known: dict[str, Job] = {}
        self.children: list[Json] = []

    def insert(self, body: Json, uploaded: bytes | None = None) -> Json:
        """Take a job and begin it."""
        configuration = body["configuration"]
        reference = body.get("jobReference", {})
        name = reference.get("jobId") or uuid.uuid4().hex
        with self.lock:
            if name in self.known:
                raise ErrorResponse(409, "duplicate", f"Already Exists: Job {self.project}:{name}")
            location = reference.get("location") or self._location(configuration)
            job = Job(
                {
                    "kind": "bigquery#job",
                    "id": f"{self.project}:{location}.{name}",
                    "jobReference": {"projectId": self.project, "jobId": name, "location": location},
                    "configuration": configuration,
                    "status": {"state": "PENDING"},
                    "statistics": {"creationTime": _now()},
                }
            )
            if configuration.get("dryRun"):
                self._script(job).explain()
                job.resource["status"] = {"state": "DONE"}
                job.resource["statistics"]["query"] = {"totalBytesProcessed": "0"}
                return job.resource
            self.known[name] = job
        if self.seconds:
            threading.Thread(target=self._carry_out, args=(job, uploaded), daemon=True).start()
        else:
            self._carry_out(job, uploaded)
        with self.lock:
            return dict(job.resource)

    def _carry_out(self, job: Job, uploaded: bytes | None) -> None:
        time.sleep(self.seconds / 2)
        with self.lock:
            job.resource["status"] = {"state": "RUNNING"}
            job.resource["statistics"]["startTime"] = _now()
        time.sleep(self.seconds / 2)
        status: Json = {"state": "DONE"}
        with self.lock:
            try:
                if "load" in job.resource["configuration"]:
                    self._load(job, uploaded)
                else:
                    self._query(job)
            except ErrorResponse as refused:
                said = {"reason": refused.reason, "message": refused.message}
                status |= {"errorResult": said, "errors": [said]}
            finally:
                job.resource["statistics"]["endTime"] = _now()
                job.resource["status"] = status

    def _load(self, job: Job, uploaded: bytes | None) -> None:
        self._check_fault(job, 0)
        wanted = job.resource["configuration"]["load"]
        self._check_location(job, wanted["destinationTable"]["datasetId"])
        files = [uploaded] if uploaded is not None else [self._object(uri) for uri in wanted["sourceUris"]]
        job.resource["statistics"]["load"] = self.tables.load(wanted, files)

    def _query(self, job: Job) -> None:
        configuration = job.resource["configuration"]["query"]
        script = self._script(job)
        answers: list[StatementResult] = []
        try:
            for answer in script.run(lambda number: self._check_fault(job, number)):
                answers.append(answer)
        finally:
            if len(answers) > 1:
                self.children += [_child(job, number, a) for number, a in enumerate(answers, start=1)]
        job.answer = answers[-1]
        statistics: Json = {
            "totalBytesProcessed": "0",
            "cacheHit": False,
            "statementType": "SCRIPT" if len(answers) > 1 else job.answer.kind,
            "totalRows": str(len(job.answer.rows)),
        }
        if job.answer.affected is not None:
            statistics["numDmlAffectedRows"] = str(job.answer.affected)
        if len(answers) > 1:
            job.resource["statistics"]["numChildJobs"] = str(len(answers))
        elif job.answer.target:
            configuration["destinationTable"] = job.answer.target
        elif "destinationTable" in configuration and job.answer.kind == "SELECT":
            self._check_location(job, configuration["destinationTable"]["datasetId"])
            found = self.tables.database.sql(script.view())
            self.tables.write(
                configuration["destinationTable"],
                found,
                job.answer.fields,
                {"writeDisposition": "WRITE_EMPTY", **configuration},
            )
        job.resource["statistics"]["query"] = statistics

    def _script(self, job: Job) -> Script:
        def jobs() -> list[Json]:
            return [*(known.resource for known in self.known.values()), *self.children]

        return Script(self.tables, job.resource["configuration"]["query"], jobs)

    def _check_fault(self, job: Job, statement: int) -> None:
        if refused := self.fault(job.resource, statement):
            raise refused

    def _check_location(self, job: Job, dataset: str) -> None:
        location = job.resource["jobReference"]["location"]
        if self.tables.dataset(dataset)["location"].upper() != location.upper():
            raise ErrorResponse(
                404,
                "notFound",
                f"Not found: Dataset {self.project}:{dataset} was not found in location {location}",
            )

    def _location(self, configuration: Json) -> str:
        """Where a job runs that does not say it: where its destination is."""
        kind = configuration.get("load") or configuration.get("query") or {}
        dataset = kind.get("destinationTable", kind.get("defaultDataset", {})).get("datasetId")
        known = self.tables.datasets.get(dataset or "")
        if known is None and len({d["location"] for d in self.tables.datasets.values()}) == 1:
            known = next(iter(self.tables.datasets.values()))
        return str(known["location"]) if known else "US"

    def _object(self, uri: str) -> bytes:
        if self.objects is None:
            raise ErrorResponse(400, "invalid", "the stand-in was not told how to open gs:// URIs")
        try:
            return self.objects(uri)
        except FileNotFoundError:
            raise ErrorResponse(404, "notFound", f"Not found: URI {uri}") from None

    def look(self, name: str, query: Mapping[str, str]) -> Job:
        job = self.known.get(name)
        location = job.resource["jobReference"]["location"] if job else ""
        asked = query.get("location") or (location if location in _MULTI_REGIONS else "US")
        if job is None or asked.upper() != location.upper():
            raise ErrorResponse(404, "notFound", f"Not found: Job {self.project}:{name}")
        return job

    def results(self, job: Job, query: Mapping[str, str]) -> Json:
        """jobs.getQueryResults"""
        answer: Json = {
            "kind": "bigquery#getQueryResultsResponse",
            "jobReference": job.resource["jobReference"],
            "jobComplete": job.done,
        }
        if not job.done:
            return answer
        if error := job.resource["status"].get("errorResult"):
            raise ErrorResponse(_STATUS.get(error["reason"], 400), error["reason"], error["message"])
        fields, rows = job.answer.fields, job.answer.rows
        start = int(query.get("pageToken") or query.get("startIndex") or 0)
        size = min(int(query.get("maxResults") or self.page_rows), self.page_rows)
        int64 = query.get("formatOptions.useInt64Timestamp", "").lower() == "true"
        shown = rows[start : start + size]
        answer |= {
            "totalRows": str(len(rows)),
            "totalBytesProcessed": "0",
            "cacheHit": False,
            "schema": {"fields": fields},
            "rows": [row(values, fields, int64_timestamps=int64) for values in shown],
        }
        if job.answer.affected is not None:
            answer["numDmlAffectedRows"] = str(job.answer.affected)
        if start + size < len(rows):
            answer["pageToken"] = str(start + size)
        return answer

    def listed(self, query: Mapping[str, str]) -> Json:
        """jobs.list: the newest first, in pages; those of a script only if they are asked for."""
        parent = query.get("parentJobId")
        known = [job.resource for job in self.known.values()]
        if parent:
            known = [child for child in self.children if child["statistics"]["parentJobId"] == parent]
        since = int(query.get("minCreationTime") or 0)
        known = [job for job in reversed(known) if int(job["statistics"]["creationTime"]) >= since]
        start, size = int(query.get("pageToken") or 0), int(query.get("maxResults") or self.page_rows)
        answer: Json = {"jobs": [{**job, **job["status"]} for job in known[start : start + size]]}
        if start + size < len(known):
            answer["nextPageToken"] = str(start + size)
        return answer


def _child(job: Job, number: int, answer: StatementResult) -> Json:
    """A statement of a script as the job that the service makes of it."""
    reference = job.resource["jobReference"]
    name = f"script_job_{reference['jobId']}_{number}"
    configuration: Json = {"query": {"query": ""}}
    if answer.target:
        configuration["query"]["destinationTable"] = answer.target
    return {
        "kind": "bigquery#job",
        "id": f"{reference['projectId']}:{reference['location']}.{name}",
        "jobReference": {**reference, "jobId": name},
        "configuration": configuration,
        "status": {"state": "DONE"},
        "statistics": {
            "creationTime": _now(),
            "parentJobId": reference["jobId"],
            "query": {"statementType": answer.kind},
        },
    }


def _now() -> str:
    return str(int(time.time() * 1000))
