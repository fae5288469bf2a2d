"""How APIs are reached: where they are, and the secrets that they want, asked for when a call is made."""

import os
from collections.abc import Iterator, Sequence

import dagster as dg
from pydantic import Field

from etl_assets import addresses
from etl_assets.apis.declaration import Api, wrong_url
from etl_assets.apis.errors import ApiError
from etl_assets.apis.windows import names_days
from etl_assets.clients.secrets import resolved
from etl_assets.errors import EtlError
from etl_assets.preflight import CheckResult


class Apis(dg.ConfigurableResource):
    """The APIs of a project. Nothing is asked or read before a call is made."""

    scratch: str = Field(description="Folder for records on their way into the lake.")

    def url(self, api: Api) -> str:
        """Where an API is: as declared, unless a setting says otherwise. Raises `ApiError`."""
        url = os.environ.get(api.url_setting, "").strip() if api.url_setting else ""
        if url and (wrong := wrong_url(url)):
            raise ApiError(f"{api.url_setting} {wrong}")
        if url and names_days(url) is not names_days(api.url):
            raise ApiError(
                f"{api.url_setting} must name the days of the window ({{start}}, {{end}}, {{last}}) as the declared url does, or not "
                f"at all ({api.where})"
            )
        return url or api.url

    def secret(self, setting: str) -> str:
        """What a setting holds, or names. Raises `EtlError`, without it."""
        value = os.environ.get(setting, "").strip()
        if not value:
            raise ApiError(
                f"{setting} is not set: it holds the credential of an API, or names it as aws-secret://…"
            )
        return resolved(value, setting)

    def check(self, apis: Sequence[Api]) -> Iterator[CheckResult]:
        """Whether what APIs need is set. None is called: that would count."""
        for api in apis:
            try:
                where = addresses.service(self.url(api))
                told = f"at {where}, not called"
                if api.credential:
                    self.secret(api.credential.setting)
                    told += f"; {api.credential.setting} is set"
                yield CheckResult(api.name, told)
            except EtlError as error:
                yield CheckResult(api.name, str(error), "missing")
