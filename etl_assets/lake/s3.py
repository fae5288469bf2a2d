"""S3, and what speaks its language. Who we are and where it is, is found as every AWS tool finds it: environment,
profile, role of the machine; `AWS_ENDPOINT_URL` names another service than Amazon's.
"""

import os
import uuid
from functools import cache, cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any

import boto3
from botocore import exceptions as botocore
from botocore.config import Config

from etl_assets import addresses
from etl_assets.lake.files import LakeError
from etl_assets.lake.object_store import (
    PATIENCE,
    Bucket,
    ListingPage,
    ObjectChanged,
    ObjectExists,
    ObjectFiles,
    ObjectUpload,
    Patience,
    StoredObject,
    Unfinished,
    bucket_and_prefix,
)

_PASSES = {429, 500, 502, 503, 504}
# Errors of the service, by its own name for them, that it says to repeat whatever their status.
_REPEATED = {
    "ConditionalRequestConflict",  # another writer is at it: the next answer will be that it won, or that we did
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
}
_INTERRUPTED = (
    botocore.ConnectionError,
    botocore.HTTPClientError,
    botocore.IncompleteReadError,
    botocore.FlexibleChecksumError,
)
_NOT_KNOWN = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "UnrecognizedClientException"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_ELSEWHERE = {
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "301",
}
_UPLOAD = "etl-upload"


def open_s3(url: str, cache: Path, patience: Patience = PATIENCE) -> ObjectFiles:
    """The files under `s3://bucket/prefix`."""
    bucket, prefix = bucket_and_prefix(url)
    return ObjectFiles(S3Bucket(bucket, patience), prefix, cache, patience)


@cache
def _client(patience: Patience, environment: tuple[tuple[str, str], ...]) -> Any:
    """A client takes a tenth of a second to make, so there is one per configuration."""
    config = Config(
        connect_timeout=patience.connect_seconds,
        read_timeout=patience.answer_seconds,
        retries={"total_max_attempts": 1},  # requests are repeated by whoever knows what they mean
        max_pool_connections=32,
    )
    try:
        return boto3.session.Session().client("s3", config=config)
    except ValueError:  # its text repeats the address
        raise LakeError(
            "AWS_ENDPOINT_URL can't be read: write https://host:port, or leave it out for Amazon's S3"
        ) from None


class S3Bucket(Bucket):
    """A bucket of S3."""

    errors = (botocore.BotoCoreError, botocore.ClientError)

    def __init__(self, name: str, patience: Patience) -> None:
        self.name = name
        self.url = f"s3://{name}"
        self._patience = patience

    @property
    def client(self) -> Any:
        named = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_")))
        return _client(self._patience, named)

    @cached_property
    def encryption(self) -> dict[str, str]:
        """What to ask for with each object: AES-256, unless the bucket's own rule (a KMS key, say) is to apply, or we
        may not know it; Amazon's S3 then encrypts by that rule, or by AES-256."""
        try:
            found = self.client.get_bucket_encryption(Bucket=self.name)
        except botocore.ClientError as error:
            if _code(error) == "ServerSideEncryptionConfigurationNotFoundError":
                return {"ServerSideEncryption": "AES256"}
            if _code(error) not in {"AccessDenied", "NotImplemented"}:
                raise
            return {}
        rules = found["ServerSideEncryptionConfiguration"]["Rules"]
        kinds = {rule.get("ApplyServerSideEncryptionByDefault", {}).get("SSEAlgorithm") for rule in rules}
        return {"ServerSideEncryption": "AES256"} if kinds <= {"AES256", None} else {}

    def page(self, prefix: str, token: str | None, delimiter: str = "/") -> ListingPage:
        more = {"ContinuationToken": token} if token else {}
        found = self.client.list_objects_v2(Bucket=self.name, Prefix=prefix, Delimiter=delimiter, **more)
        entries = found.get("Contents", [])
        objects = {entry["Key"]: StoredObject(entry["ETag"], entry["Size"]) for entry in entries}
        folders = [entry["Prefix"] for entry in found.get("CommonPrefixes", [])]
        return ListingPage(objects, folders, found.get("NextContinuationToken"))

    def find(self, key: str) -> StoredObject | None:
        try:
            found = self.client.head_object(Bucket=self.name, Key=key)
        except botocore.ClientError as error:
            if _status(error) == HTTPStatus.NOT_FOUND:
                return None
            raise
        return StoredObject(found["ETag"], found["ContentLength"])

    def get(self, key: str) -> bytes | None:
        try:
            found = self.client.get_object(Bucket=self.name, Key=key)
        except botocore.ClientError as error:
            if _code(error) == "NoSuchKey":
                return None
            raise
        return bytes(found["Body"].read())

    def get_range(self, key: str, version: str, start: int, length: int) -> bytes:
        span = f"bytes={start}-{start + length - 1}"
        try:
            found = self.client.get_object(Bucket=self.name, Key=key, Range=span, IfMatch=version)
        except botocore.ClientError as error:
            if _status(error) in {HTTPStatus.PRECONDITION_FAILED, HTTPStatus.NOT_FOUND}:
                raise ObjectChanged from error
            raise
        return bytes(found["Body"].read())

    def create(self, key: str, content: bytes) -> None:
        try:
            self.client.put_object(
                Bucket=self.name, Key=key, Body=content, IfNoneMatch="*", **self.encryption
            )
        except botocore.ClientError as error:
            if _status(error) == HTTPStatus.PRECONDITION_FAILED:
                raise ObjectExists from error
            raise

    def put(self, key: str, content: bytes) -> StoredObject:
        made = self.client.put_object(Bucket=self.name, Key=key, Body=content, **self.encryption)
        return StoredObject(made["ETag"], len(content))

    def upload(self, key: str) -> ObjectUpload:
        token = uuid.uuid4().hex
        begun = self.client.create_multipart_upload(
            Bucket=self.name, Key=key, Metadata={_UPLOAD: token}, **self.encryption
        )
        return _S3Upload(self, key, begun["UploadId"], token)

    def unfinished(self, prefix: str) -> list[Unfinished]:
        found: list[Unfinished] = []
        more: dict[str, str] = {}
        while True:
            page = self.client.list_multipart_uploads(Bucket=self.name, Prefix=prefix, **more)
            for entry in page.get("Uploads", []):
                upload = _S3Upload(self, entry["Key"], entry["UploadId"], "")
                found.append(Unfinished(entry["Key"], entry["Initiated"], upload.abort))
            if not page.get("IsTruncated"):
                return found
            more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)

    def passes(self, error: BaseException) -> bool:
        if isinstance(error, botocore.ClientError):
            return _status(error) in _PASSES or _code(error) in _REPEATED
        return isinstance(error, _INTERRUPTED) and not isinstance(error, botocore.SSLError)

    def reason(self, error: Exception) -> str:
        if isinstance(error, botocore.ClientError):
            return self._refusal(error)
        if isinstance(error, botocore.NoCredentialsError | botocore.PartialCredentialsError):
            return (
                "there are no AWS credentials; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run "
                "where a role is given"
            )
        if isinstance(error, botocore.ProfileNotFound):
            return "there is no AWS profile of that name; correct AWS_PROFILE"
        if isinstance(error, botocore.EndpointConnectionError | botocore.ConnectTimeoutError):
            where = addresses.service(self.client.meta.endpoint_url)
            return f"{where} can't be reached; see AWS_ENDPOINT_URL, AWS_REGION and the network"
        if isinstance(error, _INTERRUPTED):
            return f"the connection failed ({type(error).__name__})"
        _client.cache_clear()  # a login that has ended, or a role that can't be had: the next one is looked for anew
        return f"the AWS client failed ({type(error).__name__}); see the AWS_… variables"

    def _refusal(self, error: botocore.ClientError) -> str:
        code = _code(error)
        if code == "NoSuchBucket":
            return f"there is no bucket {self.name}; create it, or correct ETL_LAKE_URL"
        if code in _EXPIRED:
            _client.cache_clear()
            return "the AWS credentials have expired; log in again"
        if code in _NOT_KNOWN:
            _client.cache_clear()
            return f"the AWS credentials are not accepted ({code})"
        if code in _ELSEWHERE:
            return f"bucket {self.name} lies in another region; set AWS_REGION to it"
        if code in {"AccessDenied", "AllAccessDisabled", "AccountProblem", "403"}:
            return f"no permission ({_ACTIONS.get(error.operation_name, error.operation_name)} on {self.url})"
        if code == "400":  # a HEAD has no body that would say why
            return "the request is refused; expired credentials or a wrong AWS_REGION are the usual causes"
        return f"{code}: {_line(error.response['Error'].get('Message', ''))}"


# What a policy must allow, by the request that was refused.
_ACTIONS = {
    "ListObjectsV2": "s3:ListBucket",
    "HeadObject": "s3:GetObject, and s3:ListBucket for what does not exist",
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "DeleteObject": "s3:DeleteObject",
}


class _S3Upload(ObjectUpload):
    def __init__(self, bucket: S3Bucket, key: str, upload_id: str, token: str) -> None:
        self.bucket = bucket
        self.named = {"Bucket": bucket.name, "Key": key, "UploadId": upload_id}
        self.token = token
        self.parts: list[dict[str, Any]] = []
        self.bytes = 0
        self.ending = False

    def send(self, block: bytes) -> None:
        number = len(self.parts) + 1
        sent = self.bucket.client.upload_part(**self.named, PartNumber=number, Body=block)
        self.parts.append({"PartNumber": number, "ETag": sent["ETag"]})
        self.bytes += len(block)

    def finish(self, block: bytes) -> StoredObject:
        if not self.ending:
            self.send(block)
            self.ending = True
        client = self.bucket.client
        try:
            made = client.complete_multipart_upload(**self.named, MultipartUpload={"Parts": self.parts})
            return StoredObject(made["ETag"], self.bytes)
        except botocore.ClientError as error:
            if _code(error) != "NoSuchUpload":
                raise
        # After an attempt whose answer was lost: is the object what we uploaded?
        key = self.named["Key"]
        try:
            found = client.head_object(Bucket=self.bucket.name, Key=key)
        except botocore.ClientError as error:
            if _status(error) != HTTPStatus.NOT_FOUND:
                raise
            found = {"Metadata": {}}
        if found["Metadata"].get(_UPLOAD) != self.token:
            raise LakeError(
                f"can't write {self.bucket.url}/{key}: the upload was aborted by somebody else; run it again"
            )
        return StoredObject(found["ETag"], self.bytes)

    def abort(self) -> None:
        try:
            self.bucket.client.abort_multipart_upload(**self.named)
        except botocore.ClientError as error:
            if _code(error) != "NoSuchUpload":
                raise


def _code(error: botocore.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: botocore.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _line(text: object) -> str:
    return " ".join(str(text).split())
