"""A private PostgreSQL for tests: its own cluster in a folder of its own, on a socket and a loopback port."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Self

import psycopg

OWNER = "postgres" if os.geteuid() == 0 else None
"""The server refuses to run as root; then it runs as the user that its package has made."""


def binary(name: str) -> str:
    """One of PostgreSQL's programs: on the path, or where Debian keeps them."""
    found = shutil.which(name) or max(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), default=None)
    if found is None:
        msg = f"expected PostgreSQL's {name} on the path or below /usr/lib/postgresql"
        raise FileNotFoundError(msg)
    return found


class Cluster:
    """A cluster in a folder that goes with it, to be used in a `with` block."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="postgres-")
        self.folder = Path(self._temporary.name)
        self.data = self.folder / "data"
        self.databases = 0
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def __enter__(self) -> Self:
        if OWNER is not None:
            shutil.chown(self.folder, OWNER)
        self._run("initdb", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username=test", "-D", self.data)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop("immediate")
        self._temporary.cleanup()

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        self._run("pg_ctl", "start", "--wait", "-D", self.data, "-l", self.folder / "log", "-o", options)

    def stop(self, mode: str) -> None:
        """Stop it: `fast`, or `immediate`, which is a crash."""
        self._run("pg_ctl", "stop", "--wait", "-D", self.data, "-m", mode)

    def new_database(self) -> str:
        """Make a database; gives its URL."""
        self.databases += 1
        name = f"ledger_{self.databases}"
        self.ask("postgres", f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://test@127.0.0.1:{self.port}/{name}"

    def ask(self, database: str, statement: str) -> list[tuple[object, ...]]:
        """Run a statement as the owner of everything."""
        place = f"host=127.0.0.1 port={self.port} user=test dbname={database}"
        with closing(psycopg.connect(place, autocommit=True)) as connection:
            found = connection.execute(statement)  # type: ignore[call-overload]
            return found.fetchall() if found.description else []

    def _run(self, program: str, *arguments: object) -> None:
        command = [binary(program), *map(str, arguments)]
        silent, told = subprocess.DEVNULL, subprocess.PIPE
        done = subprocess.run(command, cwd=self.folder, user=OWNER, check=False, stdout=silent, stderr=told, text=True)
        if done.returncode:
            msg = f"{' '.join(command)}: {done.stderr}"
            raise RuntimeError(msg)
