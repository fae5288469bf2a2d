"""Settings that name a secret instead of holding it: `aws-secret://<name>` or `aws-secret://<name>#<key of its JSON>`.

Whoever connects asks for the secret at that moment, and nothing keeps it: after a rotation the next connection has the
new one. AWS's own chain finds credentials and region. Not here: settings that hold the secret themselves, which is the
default and goes through unchanged.
"""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from etl_assets.errors import EtlError

SCHEME = "aws-secret://"
_POSTGRES = dict.fromkeys(("postgres", "postgresql", "aurora-postgresql"), "postgresql")
ENGINES = _POSTGRES | dict.fromkeys(("mysql", "mariadb", "aurora-mysql", "aurora"), "mysql+pymysql")
"""The engines whose databases a step can work in by the secret alone."""
_FORM = f"write {SCHEME}name or {SCHEME}name#key"
_EXPIRED = {
    "ExpiredToken",
    "ExpiredTokenException",
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "RequestExpired",
}


class SecretError(EtlError):
    """A secret can't be had, or is not what a setting needs."""


def names_secret(value: str) -> bool:
    """Does a setting name a secret, rather than hold it?"""
    return value.startswith(SCHEME)


def resolved(value: str, setting: str) -> str:
    """What a setting stands for: its own value, or the secret that it names. Raises `SecretError`, without the value."""
    if not names_secret(value):
        return value
    name, separator, key = value.removeprefix(SCHEME).partition("#")
    if not name or (separator and not key):
        raise SecretError(f"{setting}: {SCHEME} names no secret: {_FORM}")
    text = _fetched(name, setting)
    if not text:
        raise SecretError(f"{setting}: secret {name} is empty")
    if not key:
        return text
    found = _object(text)
    if found is None:
        raise SecretError(
            f"{setting}: secret {name} is no JSON object, so it has no key {key}: name it without #{key}"
        )
    if key not in found:
        raise SecretError(
            f"{setting}: secret {name} has no key {key}; it has {', '.join(sorted(found)) or 'none'}"
        )
    if found[key] in ("", None):
        raise SecretError(f"{setting}: secret {name} has nothing under {key}")
    return str(found[key])


def database_url(value: str, setting: str, engines: Mapping[str, str] = _POSTGRES) -> str:
    """As `resolved`, for the URL of a database; a secret may hold the URL, or JSON as RDS writes it (username, password,
    host, port, dbname). `engines`: those that may be meant, as RDS names them, and how the URL of each begins; of one that
    is not said the first is meant."""
    text = resolved(value, setting)
    found = _object(text) if names_secret(value) else None
    if found is None:
        return text
    name = value.removeprefix(SCHEME).partition("#")[0]
    missing = [key for key in ("username", "password", "host", "dbname") if not found.get(key)]
    if missing:
        raise SecretError(
            f"{setting}: secret {name} lacks {', '.join(missing)}, which a database's secret has"
        )
    engine = str(found.get("engine") or next(iter(engines)))
    if engine not in engines:
        needed = "a PostgreSQL is needed" if engines is _POSTGRES else f"known are {', '.join(engines)}"
        raise SecretError(f"{setting}: secret {name} is for the engine {engine}; {needed}")
    user, password, database = (quote(str(found[key]), safe="") for key in ("username", "password", "dbname"))
    port = f":{found['port']}" if found.get("port") else ""
    return f"{engines[engine]}://{user}:{password}@{found['host']}{port}/{database}"


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _fetched(name: str, setting: str) -> str:
    # Slow to import, and most deployments never need them.
    import warnings

    import dagster as dg
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError
    from dagster_aws.secretsmanager import SecretsManagerResource

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        resource = SecretsManagerResource()
    try:
        client = resource.get_client()
        answer = client.get_secret_value(SecretId=name)
    except NoRegionError:
        raise SecretError(f"{setting}: secret {name}: in which region? Set AWS_DEFAULT_REGION") from None
    except NoCredentialsError:
        raise SecretError(
            f"{setting}: secret {name}: no AWS credentials; give this process a role, or set AWS_PROFILE"
        ) from None
    except ClientError as error:
        raise SecretError(f"{setting}: {_refusal(error, name, client.meta.region_name)}") from None
    except BotoCoreError as error:
        # Its text repeats the address of the service, or what a program told that has the credentials.
        raise SecretError(
            f"{setting}: secret {name}: the AWS client failed ({type(error).__name__}); see the AWS_… variables"
        ) from None
    except ValueError:
        raise SecretError(f"{setting}: secret {name}: AWS_ENDPOINT_URL can't be read") from None
    if "SecretString" not in answer:
        raise SecretError(f"{setting}: secret {name} is binary; a text is needed")
    return str(answer["SecretString"]).strip()


def _refusal(error: Any, name: str, region: str) -> str:
    """Only the code of AWS's answer: the text of some quotes the request."""
    code = error.response["Error"]["Code"]
    if code == "ResourceNotFoundException":
        return f"there is no secret {name} in {region}, or it has no value; check its name, and AWS_DEFAULT_REGION"
    if code in {"AccessDeniedException", "AccessDenied"}:
        return f"secret {name} may not be read: allow this role secretsmanager:GetSecretValue on it"
    if code in _EXPIRED:
        return (
            f"secret {name}: AWS does not accept the credentials ({code}); they may have expired: renew them"
        )
    if code == "InvalidRequestException":
        return f"secret {name} can't be read in its present state; it may be marked for deletion"
    if code == "DecryptionFailure":
        return f"secret {name} can't be decrypted: allow this role kms:Decrypt with its key"
    return f"secret {name} can't be read: {code}"
