"""Python modules that exist for one test: written to a folder, loaded from there."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def loaded(name: str, text: str, folder: Path) -> ModuleType:
    """A module with this text, under a name of one's own or that of a module of the product, which stays as it is.

    Each text has its own file: Python remembers the lines of files that it has read.
    """
    path = folder / f"{name}_{sum(1 for _ in folder.iterdir())}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    kept = sys.modules.get(name)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        if kept is not None:
            sys.modules[name] = kept
    return module


def edited(module: ModuleType, old: str, new: str, folder: Path) -> ModuleType:
    """A module of the product, with an edit."""
    assert module.__file__
    text = Path(module.__file__).read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {module.__name__}"
    return loaded(module.__name__, text.replace(old, new), folder)
