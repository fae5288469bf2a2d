"""An environment of its own for each tool, of pinned versions (`requirements`), made when it is needed and kept."""

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.tool import Tool

REQUIREMENTS = Path(__file__).parent / "requirements"
_INSTALL_SECONDS = 1800
_PROBE_SECONDS = 120


@dataclass(frozen=True)
class Environment:
    """`versions` are those that the requirements pin. `instead_of`: what could not be had and would have been preferred,
    with the reason."""

    python: Path
    versions: tuple[str, ...]
    instead_of: tuple[str, ...] = ()


class NotToBeHad(Exception):
    """No environment of a tool could be made. The message names what was tried, and why it failed."""


def environment(folder: Path, tool: Tool, variables: Mapping[str, str]) -> Environment:
    """The first environment of a tool that can be had, made in `folder`. Raises NotToBeHad."""
    if not tool.environments:
        return Environment(Path(sys.executable), ())
    failed: list[str] = []
    for name in tool.environments:
        requirements = REQUIREMENTS / f"{name}.txt"
        versions = tuple(re.findall(r"^[\w.\[\],-]+==\S+", requirements.read_text(), flags=re.MULTILINE))
        python = folder / name / "bin/python"
        reason = _make(folder / name, requirements) or _probe(python, tool.probe, variables)
        if not reason:
            return Environment(python, versions, tuple(failed))
        failed.append(f"{versions[0]}: {reason}")
    raise NotToBeHad("; ".join(failed))


def _make(folder: Path, requirements: Path) -> str:
    """Why it could not be made; nothing if it is there, of these requirements."""
    stamp = folder / "requirements.txt"
    if stamp.exists() and stamp.read_text() == requirements.read_text():
        return ""
    made = _failure([sys.executable, "-m", "venv", "--clear", str(folder)], None, _INSTALL_SECONDS)
    install = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "-r", str(requirements)]
    if reason := made or _failure(install, None, _INSTALL_SECONDS):
        return reason
    stamp.write_text(requirements.read_text())
    return ""


def _probe(python: Path, probe: tuple[str, ...], variables: Mapping[str, str]) -> str:
    """Why the tool's program does not run."""
    return _failure([str(python), *probe], variables, _PROBE_SECONDS) if probe else ""


def _failure(command: list[str], variables: Mapping[str, str] | None, seconds: int) -> str:
    """What a command that failed said last."""
    try:
        subprocess.run(
            command,
            env=variables,
            timeout=seconds,
            check=True,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return f"no end after {seconds} s"
    except subprocess.CalledProcessError as error:
        lines = f"{error.stdout}\n{error.stderr}".strip().splitlines()
        return lines[-1].strip() if lines else f"ended with {error.returncode}"
    return ""
