"""A project as a component of somebody's own Dagster project: `type: etl_assets.component.EtlProject` in a `defs.yaml`.

    type: etl_assets.component.EtlProject
    attributes:
      project: my_shop
      settings:
        ETL_LAKE_URL: s3://bucket/lake

`dg scaffold defs etl_assets.component.EtlProject shop --project my_shop` writes that.

Settings that are not named come from the environment, as everywhere. Whoever assembles definitions in Python merges:
`dg.Definitions.merge(theirs, etl_assets.component.project_definitions("my_shop"))`.
"""

import os
from collections.abc import Mapping
from difflib import get_close_matches

import dagster as dg
from pydantic import BaseModel, Field

from etl_assets.definitions import definitions
from etl_assets.errors import SettingsError
from etl_assets.project.finding import FOLDER
from etl_assets.settings import NAMES, Settings

_OURS = ("etl",)
"""What the keys of our resources begin with beside those of others: `warehouse` may be anybody's."""


def project_definitions(project: str, settings: Mapping[str, str] | None = None) -> dg.Definitions:
    """The assets, checks, jobs, schedules and sensors of a project, to be merged with others.

    `project` is a package or a folder, as ETL_PROJECT names it; `settings` takes precedence over the environment. Raises
    `SettingsError` for a setting that names no setting, `ProjectError` for what is wrong in the project.
    """
    given = {"ETL_PROJECT": project, **(settings or {})}
    for name in given:
        if name not in NAMES:
            near = get_close_matches(name, NAMES, 1)
            raise SettingsError(
                f"{name} is no setting of ours: "
                + (f"write {near[0]}; " if near else "")
                + f"there are {', '.join(NAMES)}. What else a step needs is set in the environment"
            )
    return definitions(Settings.read({**os.environ, **given}), _OURS)


class ScaffoldParameters(BaseModel):
    """What `dg scaffold defs` is told of a project."""

    project: str = Field(default=FOLDER, description="The project: a folder from the root on, or a package.")


class EtlProjectScaffolder(dg.Scaffolder[ScaffoldParameters]):
    """Writes a `defs.yaml` that names the project."""

    @classmethod
    def get_scaffold_params(cls) -> type[ScaffoldParameters]:
        """What can be told."""
        return ScaffoldParameters

    def scaffold(self, request: dg.ScaffoldRequest[ScaffoldParameters]) -> None:
        """Write it."""
        dg.scaffold_component(request, {"project": request.params.project})


@dg.scaffold_with(EtlProjectScaffolder)
class EtlProject(dg.Component, dg.Model, dg.Resolvable):
    """A star schema that is provably equal to its PostgreSQL source: the project that says what is read and made."""

    project: str
    settings: dict[str, str] = {}  # noqa: RUF012  pydantic copies it

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The definitions of the project; a folder is meant from the root of the Dagster project on."""
        folder = context.project_root / self.project
        named = str(folder) if folder.is_dir() else self.project
        return project_definitions(named, self.settings)
