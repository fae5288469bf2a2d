"""A small flow at two moments of its life: `before`, and `after` its code was edited in every way that matters."""

import dagster as dg


def _flow(edited: bool) -> dg.Definitions:
    read = dg.AssetSpec(["source", "table"])

    def asset(
        name: str, *deps: str, code_version: str | None = "1", version: str | None = None
    ) -> dg.AssetsDefinition:
        @dg.asset(key=name.split("/"), deps=[dep.split("/") for dep in deps], code_version=code_version)
        def made(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion(version) if version else None)

        return made

    return dg.Definitions(
        assets=[
            read,
            asset("source/file", version="file"),
            asset("raw/a", "source/table", version="rows"),
            asset("raw/b", "source/table", version="rows"),
            asset("star/code", "raw/a", code_version="2" if edited else "1"),
            asset("star/from_code", "star/code"),
            asset("star/from_file", "raw/a", "source/file"),
            asset("star/more", "raw/a", *(["raw/b"] if edited else [])),
            asset("star/fewer", "raw/a", *([] if edited else ["raw/b"])),
            asset("star/unversioned", "raw/b", code_version=None),
            asset("star/from_unversioned", "star/unversioned"),
            asset("star/same", "raw/b", version="constant"),
            asset("star/from_same", "star/same"),
            *([asset("star/new", "star/same")] if edited else []),
        ],
    )


before, after = _flow(edited=False), _flow(edited=True)
