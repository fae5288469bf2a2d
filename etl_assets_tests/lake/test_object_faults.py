"""Requests to a bucket fail, their answers get lost, connections break: the content is the same as if nothing had
happened, or it is as before and one line says why. On S3 and on Google Cloud Storage alike."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import BinaryIO

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from etl_assets.lake.batches import Batches
from etl_assets.lake.files import AlreadyExists, Files, LakeError
from etl_assets.lake.s3 import S3Bucket
from etl_assets.raw.landing import take_batch
from etl_assets.raw.request import CaptureRequest
from etl_assets.source.table import Table
from etl_assets_tests.capture.comparing import execute
from etl_assets_tests.object_stores import FAULTS, HASTY, Answer, Fault, Request, Store

_PATH = "raw/batches/000001.json"
_BIG = os.urandom(20 << 20)  # three blocks


def write(files: Files, path: str, content: bytes) -> None:
    with files.writing(path) as stream:
        stream.write(content)


def stage(files: Files, path: str, content: bytes) -> None:
    staged = files.staging(path)
    staged.local.write_bytes(content)
    staged.publish()


def seek(files: Files, path: str) -> bytes:
    stream = files.reading(path)
    assert stream
    with stream:
        return stream.read()


USES: dict[str, Callable[[Files], object]] = {
    "names": lambda files: files.names("raw/t"),
    "folders": lambda files: files.folders("raw"),
    "read": lambda files: files.read("raw/t/000001.csv"),
    "create": lambda files: files.create("raw/batches/000002.json", b"manifest"),
    "write": lambda files: write(files, "raw/t/000002.csv", b"small"),
    "write much": lambda files: write(files, "raw/t/000003.csv", _BIG),
    "stage": lambda files: stage(files, "star/t/000001-aa.parquet", b"parquet"),
    "local": lambda files: files.local("raw/t/000001.csv", fresh=True).read_bytes(),
    "reading": lambda files: seek(files, "raw/t/000001.csv"),
    "exists": lambda files: (files.exists("raw/t/000001.csv"), files.exists("raw/t/none")),
    "remove": lambda files: files.remove("raw/t/gone.csv"),
    "sweep": lambda files: files.sweep("raw/t"),
}
_BEFORE = {"raw/t/000001.csv": b"raw/t/000001.csv", "raw/t/gone.csv": b"raw/t/gone.csv"}
_AFTER = {
    "raw/t/000001.csv": b"raw/t/000001.csv",
    "raw/t/000002.csv": b"small",
    "raw/t/000003.csv": _BIG,
    "raw/batches/000002.json": b"manifest",
    "star/t/000001-aa.parquet": b"parquet",
}


def patient(fault: Fault | Answer) -> float:
    return 0.5 if fault == "timeout" else HASTY.answer_seconds


SLOW = pytest.mark.slow


@pytest.mark.fault("F12", "F40")
@pytest.mark.many
@pytest.mark.parametrize("every", [3, pytest.param(2, marks=SLOW), pytest.param(5, marks=SLOW)])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_lake_is_the_same_when_requests_failed_meanwhile(bucket: Store, fault: Fault, every: int) -> None:
    assert bucket.proxy
    bucket.fill(_BEFORE)
    files = bucket.open(replace(HASTY, answer_seconds=patient(fault)))
    quiet = {
        name: use(bucket.open())
        for name, use in USES.items()
        if name in {"names", "folders", "read", "local"}
    }
    with bucket.proxy.failing(fault, every):
        found = {name: use(files) for name, use in USES.items()}
    assert len(bucket.proxy.seen) // every >= 2  # so many failed, at least
    assert bucket.everything() == _AFTER
    assert {name: found[name] for name in quiet} == quiet
    assert found["reading"] == b"raw/t/000001.csv"
    assert found["exists"] == (True, False)
    assert bucket.unfinished() <= (fault in {"lost", "lost 503"})  # a session that nobody was told of


@pytest.mark.fault("F12")
@pytest.mark.many
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    "fault",
    ["503", pytest.param("timeout", marks=SLOW), "reset", pytest.param("lost", marks=SLOW), "half"],
)
def test_a_service_that_keeps_failing_is_one_line_soon(bucket: Store, fault: Fault, use: str) -> None:
    assert bucket.proxy
    if (bucket.kind, use) == ("gs", "sweep"):
        pytest.skip("Google is not asked")
    if fault == "half" and use in {"exists", "remove", "stage", "write", "create", "sweep"}:
        pytest.skip("what is answered here has no content, or none that is looked at")
    bucket.fill(_BEFORE)
    files = bucket.open(replace(HASTY, attempts=3, answer_seconds=patient(fault)))
    started = time.monotonic()
    with bucket.proxy.failing(fault), pytest.raises(LakeError) as failure:
        USES[use](files)
    assert time.monotonic() - started < 6
    assert len(bucket.proxy.seen) <= 3 * 3
    told = str(failure.value)
    assert "\n" not in told
    assert told.startswith("can't ")
    assert files.url in told
    assert "(tried 3 times)" in told
    if fault not in {"lost", "half"}:
        assert bucket.everything() == _BEFORE
    assert not list(bucket.copies.rglob("*.csv"))


# -- who wins, when an answer got lost --------------------------------------------------------------------------------


def creates(request: Request) -> bool:
    """Whether a request creates `_PATH`: on S3 it is a PUT, on Google Cloud Storage a POST."""
    return "If-None-Match" in request.headers or "ifGenerationMatch=0" in request.path


@pytest.mark.fault("F12")
@pytest.mark.parametrize("fault", ["lost", "lost 503", "reset", "503", Answer(429), "cut"])
def test_who_created_a_file_learns_it_although_the_answer_got_lost(
    bucket: Store, fault: Fault | Answer
) -> None:
    assert bucket.proxy
    first = count()
    with bucket.proxy.deciding(lambda r: fault if creates(r) and next(first) == 0 else None):
        bucket.open().create(_PATH, b"ours")
        assert sum(creates(request) for request in bucket.proxy.seen) == 2
    assert bucket.everything() == {_PATH: b"ours"}
    with pytest.raises(AlreadyExists, match=f"{bucket.url}/{_PATH} exists already"):
        bucket.open().create(_PATH, b"ours")  # as another run would, with the same content even


@pytest.mark.parametrize("fault", ["503", "reset"])
def test_who_was_second_learns_it_although_an_answer_got_lost(bucket: Store, fault: Fault) -> None:
    assert bucket.proxy
    first = count()

    def overtaken(request: Request) -> Fault | None:
        if creates(request) and next(first) == 0:
            bucket.overwrite(_PATH, b"theirs")
            return fault
        return None

    with bucket.proxy.deciding(overtaken), pytest.raises(AlreadyExists):
        bucket.open().create(_PATH, b"ours")
    assert bucket.everything() == {_PATH: b"theirs"}


@pytest.mark.fault("F14")
def test_eight_writers_have_one_winner_although_answers_get_lost(bucket: Store) -> None:
    assert bucket.proxy
    barrier, won, lost = threading.Barrier(8), [], []

    def create(number: int) -> None:
        files = bucket.open(replace(HASTY, attempts=20))  # who gives up never learns whether it won
        barrier.wait()
        try:
            files.create(_PATH, bytes([number]) * 10_000)
            won.append(number)
        except AlreadyExists:
            lost.append(number)

    with bucket.proxy.failing("lost", every=3):
        threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert bucket.everything() == {_PATH: bytes(won) * 10_000}


def test_no_lake_is_begun_where_each_of_two_writers_would_win(
    s3: Store, database: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some services that speak S3 take no notice of If-None-Match."""

    def put(self: S3Bucket, key: str, content: bytes) -> None:
        self.put(key, content)

    url = database()
    execute(url, "CREATE TABLE t (id int PRIMARY KEY)")
    request = CaptureRequest(url, [Table("t", "", {"id": "int"})], "a test")
    with monkeypatch.context() as service:
        service.setattr(S3Bucket, "create", put)
        with pytest.raises(
            LakeError, match="lets two writers create the same file: no lake can be kept there"
        ):
            take_batch(request, Batches(s3.open()), tmp_path, lambda table, size: None)
    assert s3.everything() == {}
    assert take_batch(request, Batches(s3.open()), tmp_path, lambda table, size: None)


@pytest.mark.fault("F14")
def test_a_conflict_at_s3_is_asked_about_again(s3: Store) -> None:
    assert s3.proxy
    conflict = refusal(409, "ConditionalRequestConflict")
    first = count()
    with s3.proxy.deciding(lambda r: conflict if creates(r) and next(first) == 0 else None):
        s3.open().create(_PATH, b"ours")
    assert s3.everything() == {_PATH: b"ours"}
    first = count()
    with (
        s3.proxy.deciding(lambda r: conflict if creates(r) and next(first) == 0 else None),
        pytest.raises(AlreadyExists),
    ):
        s3.open().create(_PATH, b"others")


# -- uploads ----------------------------------------------------------------------------------------------------------


def test_an_upload_to_s3_ends_well_although_the_last_answer_got_lost(s3: Store) -> None:
    assert s3.proxy
    first = count()
    with s3.proxy.deciding(
        lambda r: "lost" if r.method == "POST" and "uploadId=" in r.path and next(first) == 0 else None
    ):
        write(s3.open(), "raw/t/000001.csv", _BIG)
    assert s3.everything() == {"raw/t/000001.csv": _BIG}
    assert s3.open().local("raw/t/000001.csv").read_bytes() == _BIG


@pytest.mark.fault("F13")
def test_an_upload_to_s3_that_somebody_aborts_fails_and_shows_nothing(s3: Store) -> None:
    s3.fill(["raw/t/000001.csv"])

    def aborted(stream: BinaryIO) -> None:
        stream.write(_BIG)
        s3.open().sweep("raw/t")
        assert s3.unfinished() == 0

    with pytest.raises(LakeError, match="can't write"), s3.open().writing("raw/t/000001.csv") as stream:
        aborted(stream)
    assert s3.everything() == {"raw/t/000001.csv": b"raw/t/000001.csv"}


@pytest.mark.parametrize("every", [2, 3])
def test_google_may_keep_part_of_a_block(google: Store, every: int) -> None:
    assert google.proxy
    numbers = count(1)
    with google.proxy.deciding(
        lambda r: "cut" if "upload_id=" in r.path and next(numbers) % every == 0 else None
    ):
        write(google.open(), "raw/t/000001.csv", _BIG)
    ranges = [r.headers["Content-Range"] for r in google.proxy.seen if "Content-Range" in r.headers]
    assert len(ranges) > 3
    assert google.everything() == {"raw/t/000001.csv": _BIG}


@pytest.mark.fault("F13")
def test_what_arrives_damaged_at_google_is_not_shown(google: Store) -> None:
    assert google.service
    sessions = google.service.buckets.sessions

    def damaged(stream: BinaryIO) -> None:
        stream.write(_BIG)
        (session,) = [session for session in sessions.values() if session.bucket == google.bucket]
        session.content[7] ^= 1

    answer = "the service answers 400"
    with pytest.raises(LakeError, match=answer), google.open().writing("raw/t/1.csv") as stream:
        damaged(stream)
    assert google.everything() == {}


# -- one line for each reason -----------------------------------------------------------------------------------------


def refusal(status: int, code: str) -> Answer:
    """An error as S3 answers it."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>Because\nof it.</Message></Error>"
    headers = {"Content-Type": "application/xml", "x-amz-bucket-region": "eu-north-1"}
    return Answer(status, body.encode(), headers)


def google_refusal(status: int, message: str) -> Answer:
    body = {"error": {"code": status, "message": message, "errors": [{"message": message}]}}
    return Answer(status, json.dumps(body).encode(), {"Content-Type": "application/json"})


S3_REASONS: list[tuple[str, Answer, str]] = [
    ("names", refusal(403, "AccessDenied"), r"can't list .*/raw/t: no permission \(s3:ListBucket on s3://"),
    (
        "read",
        refusal(403, "AccessDenied"),
        r"can't read .*/raw/t/000001.csv: no permission \(s3:GetObject on",
    ),
    ("create", refusal(403, "AccessDenied"), r"can't create .*: no permission \(s3:PutObject on"),
    ("write much", refusal(403, "AccessDenied"), r"can't write .*: no permission \(s3:PutObject on"),
    ("remove", refusal(403, "AccessDenied"), r"can't delete .*: no permission \(s3:DeleteObject on"),
    ("sweep", refusal(403, "AccessDenied"), r"no permission \(s3:ListBucketMultipartUploads on"),
    ("exists", Answer(403), r"can't read .*: no permission \(s3:GetObject, and s3:ListBucket for"),
    ("exists", Answer(400), "expired credentials or a wrong AWS_REGION"),
    ("names", refusal(400, "ExpiredToken"), "the AWS credentials have expired; log in again"),
    ("names", refusal(403, "InvalidAccessKeyId"), r"credentials are not accepted \(InvalidAccessKeyId\)"),
    ("names", refusal(403, "SignatureDoesNotMatch"), "credentials are not accepted"),
    ("names", refusal(301, "PermanentRedirect"), "lies in another region; set AWS_REGION"),
    ("names", refusal(400, "Strange"), "Strange: Because of it."),
]


@pytest.mark.fault("F12")
@pytest.mark.parametrize(("use", "answer", "reason"), S3_REASONS)
def test_what_s3_refuses_is_one_line_and_not_asked_again(
    s3: Store, use: str, answer: Answer, reason: str
) -> None:
    assert s3.proxy
    s3.fill(["raw/t/000001.csv"])
    with (
        s3.proxy.deciding(lambda r: None if "?encryption" in r.path else answer),
        pytest.raises(LakeError, match=reason) as failure,
    ):
        USES[use](s3.open())
    assert "\n" not in str(failure.value)
    assert "unspoken-secret" not in str(failure.value)
    asked = [r for r in s3.proxy.seen if "?encryption" not in r.path and "x-amz-bucket-region" not in r.path]
    assert len(asked) <= 2  # in another region than was thought, the AWS client itself looks where


GCS_REASONS: list[tuple[str, Answer, str]] = [
    (
        "names",
        google_refusal(403, "x@y.iam does not have storage.objects.list access to the bucket."),
        r"can't list .*/raw/t: no permission \(storage.objects.list on gs://",
    ),
    (
        "write much",
        google_refusal(403, "x@y.iam does not have storage.objects.create access to the object."),
        r"can't write .*: no permission \(storage.objects.create on gs://",
    ),
    ("create", google_refusal(403, "Forbidden."), r"can't create .*: no permission \(the role lacks one on gs://"),
    ("read", google_refusal(400, "Strange."), "the service answers 400 Bad Request"),
]  # fmt: skip


@pytest.mark.parametrize(("use", "answer", "reason"), GCS_REASONS)
def test_what_google_refuses_is_one_line_and_not_asked_again(
    google: Store, use: str, answer: Answer, reason: str
) -> None:
    assert google.proxy
    with google.proxy.failing(answer), pytest.raises(LakeError, match=reason) as failure:
        USES[use](google.open())
    assert "\n" not in str(failure.value)
    assert "upload_id" not in str(failure.value)
    assert len(google.proxy.seen) == 1


@pytest.mark.parametrize("use", ["names", "create", "write much", "sweep"])
def test_a_bucket_that_is_not_there_is_named(bucket: Store, use: str) -> None:
    if (bucket.kind, use) == ("gs", "sweep"):
        pytest.skip("Google is not asked")
    nowhere = replace(bucket, url=f"{bucket.kind}://nowhere/lake")
    with pytest.raises(LakeError, match="there is no bucket nowhere; create it, or correct ETL_LAKE_URL"):
        USES[use](nowhere.open())


def test_a_service_that_can_not_be_reached_is_named(bucket: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    for name in bucket.environment.keys() & {"AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST"}:
        monkeypatch.setenv(name, url)
    with pytest.raises(LakeError, match="can't be reached") as failure:
        bucket.open().names("raw")
    assert "\n" not in str(failure.value)


def test_missing_credentials_are_one_line(
    bucket: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in (*bucket.environment, "GOOGLE_APPLICATION_CREDENTIALS", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(LakeError, match=r"there are no (AWS|Google) credentials; set ") as failure:
        bucket.open().names("raw")
    assert "\n" not in str(failure.value)


def test_a_profile_that_is_not_there_is_one_line(s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(LakeError, match="there is no AWS profile of that name; correct AWS_PROFILE"):
        s3.open().names("raw")


def test_a_google_login_that_was_revoked_is_one_line(
    google: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert google.proxy
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    account = {
        "type": "service_account",
        "client_email": "x@y.iam",
        "private_key": secret,
        "token_uri": f"{google.proxy.url}/token",
    }
    file = tmp_path / "account.json"
    file.write_text(json.dumps(account))
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    denied = Answer(400, b'{"error": "invalid_grant"}', {"Content-Type": "application/json"})
    with (
        google.proxy.failing(denied),
        pytest.raises(LakeError, match="credentials have expired or were revoked; log in again") as failure,
    ):
        google.open().names("raw")
    assert "\n" not in str(failure.value)


# -- encryption -------------------------------------------------------------------------------------------------------


def encryptions(s3: Store) -> dict[str, str | None]:
    client = s3.client()
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=s3.bucket)["Contents"]]
    found = {key: client.head_object(Bucket=s3.bucket, Key=key) for key in keys}
    return {key.rpartition("/")[2]: head.get("ServerSideEncryption") for key, head in found.items()}


def test_objects_at_s3_are_encrypted_by_the_rule_of_their_bucket_or_by_aes(s3: Store) -> None:
    def write_all() -> None:
        files = s3.open()
        for name in encryptions(s3) if s3.everything() else ():
            files.remove(name)
        files.create("created", b"x")
        write(files, "small", b"x")
        write(files, "large", _BIG)

    write_all()
    assert encryptions(s3) == {"created": "AES256", "small": "AES256", "large": "AES256"}
    s3.client().put_bucket_encryption(
        Bucket=s3.bucket,
        ServerSideEncryptionConfiguration={
            "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}]
        },
    )
    assert s3.proxy
    with s3.proxy.deciding(lambda r: None):
        write_all()
    assert not [r for r in s3.proxy.seen if "AES256" in str(r.headers)]
    assert set(encryptions(s3).values()) == {"aws:kms"}
    with s3.proxy.deciding(lambda r: refusal(403, "AccessDenied") if "?encryption" in r.path else None):
        write_all()
    assert not [r for r in s3.proxy.seen if "AES256" in str(r.headers)]
