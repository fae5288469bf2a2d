"""Whether this process is somebody to the clouds that steps reach, seen before any of them runs. Nobody is asked what it may."""

import os
from collections.abc import Collection, Iterator

from etl_assets.clients.secrets import names_secret
from etl_assets.steps.group import Steps


def lacking(group: Steps, selected: Collection[str]) -> list[str]:
    """The credentials that selected steps need and that are not there."""
    steps = [one for one in group.steps if one.name in selected]
    reached = {store for one in steps for store in one.stores}
    values = [os.environ.get(name, "").strip() for one in steps for name in one.settings]
    if any(names_secret(value) or value.startswith("sns:arn:") for value in values):
        reached.add("s3")
    return list(_unknown_to(reached))


def _unknown_to(reached: Collection[str]) -> Iterator[str]:
    if "s3" in reached and not _known_to_aws():
        yield "AWS credentials (AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role)"
    if "gs" in reached and not _known_to_google():
        yield "Google credentials (GOOGLE_APPLICATION_CREDENTIALS, or gcloud auth application-default login)"


def _known_to_aws() -> bool:
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        return boto3.Session().get_credentials() is not None
    except BotoCoreError:  # a profile that is not there, a login that ended
        return False


def _known_to_google() -> bool:
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    if os.environ.get("STORAGE_EMULATOR_HOST"):
        return True
    try:
        google.auth.default()
    except GoogleAuthError:
        return False
    return True
