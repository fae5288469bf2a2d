"""How a project is found, and its modules imported."""

import importlib
import importlib.util
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType

from etl_assets.errors import EtlError
from etl_assets.project.contract import ProjectError, Slip, shown

SHIPPED = "etl_assets.totesys"
FOLDER = "etl_project"
_from_folders: set[str] = set()  # packages that were imported here from a folder
_BARE = re.compile(r"(dimension|fact|report|step)\(\) takes 0 positional arguments")


def place(setting: str | None = None, folder: Path | None = None) -> Path | str:
    """The folder of the project that a setting names, or the name of its package; nothing of it is read. Raises
    `ProjectError` for a folder that is none."""
    here = folder or Path.cwd()
    if setting is None:
        return here / FOLDER if (here / FOLDER / "__init__.py").exists() else SHIPPED
    path = (here / setting).resolve()
    if not path.is_dir() and "/" not in setting and not setting.startswith("."):
        return setting
    if not (path / "__init__.py").is_file():
        raise ProjectError(
            [
                Slip(
                    "",
                    f"ETL_PROJECT={setting}: {path} is no project: it needs an __init__.py (etl init makes one)",
                )
            ]
        )
    return path


def root_of(where: Path | str) -> Path:
    """The folder of a project. Raises `ProjectError` for a package that there is not."""
    if isinstance(where, Path):
        return where
    try:
        spec = importlib.util.find_spec(where)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ProjectError(
            [Slip("", f"ETL_PROJECT={where}: there is no package {where}, and no folder of that name here")]
        )
    return Path(spec.submodule_search_locations[0])


def package(where: Path | str, slips: list[Slip]) -> ModuleType:
    """A project's package, imported; what is wrong with it is added to `slips`. Raises `ProjectError`."""
    if isinstance(where, Path):
        return _of_folder(where, slips)
    return imported(where, root_of(where), slips) or ModuleType(where)


def package_name(folder: Path) -> str:
    """What a folder is called as a package."""
    name = "".join(c if c.isalnum() else "_" for c in folder.name)
    return name if name.isidentifier() else f"project_{name}"


def hidden_by(folder: Path) -> str | None:
    """The module that nobody could import any more if a folder were a package of its name; None if there is none."""
    name, init = package_name(folder), folder / "__init__.py"
    if name in sys.stdlib_module_names:
        return f"the module {name} of Python"
    if name in _from_folders:
        return None
    known = sys.modules.get(name)
    try:
        spec = known.__spec__ if known else importlib.util.find_spec(name)
    except ValueError:
        spec = None
    origin = spec.origin if spec else None
    if origin is None or _is(Path(origin), init):
        return None
    return f"the package {name} in {Path(origin).parent}"


def _is(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _of_folder(folder: Path, slips: list[Slip]) -> ModuleType:
    """A folder as a package of its name. Raises `ProjectError` where something else is called so."""
    importlib.invalidate_caches()
    if hidden := hidden_by(folder):
        raise ProjectError(
            [Slip(shown(str(folder)), f"a project of this name hides {hidden}: give its folder another name")]
        )
    name = package_name(folder)
    for known in [one for one in sys.modules if one == name or one.startswith(f"{name}.")]:
        del sys.modules[known]
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ProjectError([Slip(str(folder), "it can't be imported")])
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    _from_folders.add(name)
    try:
        spec.loader.exec_module(made)
    except Exception as error:  # noqa: BLE001  whatever a user's module raises is told with its place
        slips.append(_slip(error, folder))
    return made


def imported(name: str, root: Path, slips: list[Slip]) -> ModuleType | None:
    """A module of a project; None if it raises, which is added to `slips`."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # noqa: BLE001  whatever a user's module raises is told with its place
        slips.append(_slip(error, root))
        return None


def _slip(error: Exception, root: Path) -> Slip:
    """An error of a user's module: the innermost line that is theirs, and what was said."""
    if isinstance(error, SyntaxError) and error.filename:
        return Slip(f"{shown(error.filename)}:{error.lineno}", f"{error.msg}")
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if Path(frame.filename).is_relative_to(root)]
    where = f"{shown(theirs[-1].filename)}:{theirs[-1].lineno}" if theirs else str(root)
    said = " ".join(str(error).split())
    if isinstance(error, TypeError) and (bare := _BARE.search(said)):
        said = f"@{bare[1]} says nothing: write @{bare[1]}(…) with what it declares"
    elif not isinstance(error, ValueError | EtlError):
        said = f"{type(error).__name__}: {said}"
    return Slip(where, said)
