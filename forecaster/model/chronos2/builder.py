"""Build compiled code in a child process, at low priority and with a deadline; it is killed if its parent exits.

The parent calls `Builder.build`; the child is `python -m forecaster.model.chronos2.builder`. It needs the checkpoint's
configuration and a shape, but no weights: a package uses those of the live model when it is loaded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "model.pt2"


class BuildFailed(Exception):
    """The child built no package; the message gives its fault."""


@dataclass(frozen=True)
class BuildRequest:
    """Request to the child, sent as one line of JSON. The build has the lowest priority, unless `awaited`."""

    config: dict[str, object]
    shape: tuple[int, int, int, str, int]
    device: str
    threads: int
    folder: str
    awaited: bool = False


class Builder:
    """Run one child at a time.

    Args:
        deadline_s: seconds after which a child is killed.
    """

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._child: subprocess.Popen[bytes] | None = None
        self._closed = threading.Event()

    def build(self, request: BuildRequest) -> Path:
        """Build the package and return its path, in `request.folder`.

        An assertion on symbolic shapes fails at random (pytorch#163876): that failure is retried once.

        Raises:
            BuildFailed: when the child fails, is killed, or takes too long.
        """
        try:
            return self._build_once(request)
        except BuildFailed as fault:
            if "AssertionError" not in str(fault):
                raise
        return self._build_once(request)

    def close(self) -> None:
        """Kill the child, if there is one, and start no other."""
        self._closed.set()
        self._kill()

    def _build_once(self, request: BuildRequest) -> Path:
        if self._closed.is_set():
            raise BuildFailed("the model was unloaded")
        with subprocess.Popen(
            [sys.executable, "-m", "forecaster.model.chronos2.builder"],
            cwd=Path(__file__).parents[3],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,  # closing the pipe must not write again what a dead child did not read
            start_new_session=True,
        ) as child:
            self._child = child
            if self._closed.is_set():  # by another thread, before it saw the child
                self._kill()
            try:
                # The pipe stays open. The child ends when it closes, which also happens when this process is killed.
                result = self._communicate(child, json.dumps(dataclasses.asdict(request)))
            finally:
                self._kill()
        package = Path(request.folder) / PACKAGE
        if result != "done" or not package.is_file():
            raise BuildFailed(
                result or f"expected a package, found that the compiler ended with {self._child.returncode}"
            )
        return package

    def _communicate(self, child: subprocess.Popen[bytes], line: str) -> str:
        """Send the request and return the last line of the output."""
        timed_out = threading.Event()

        def stop() -> None:
            timed_out.set()
            self._kill()

        timer = threading.Timer(self._deadline_s, stop)
        timer.daemon = True
        timer.start()
        try:
            assert child.stdin is not None  # noqa: S101 - for the type checker: they are pipes
            assert child.stdout is not None  # noqa: S101
            child.stdin.write(f"{line}\n".encode())
            output = child.stdout.read().decode(errors="replace").strip().rpartition("\n")[2]
        except BrokenPipeError:
            output = ""
        finally:
            timer.cancel()
        child.wait()
        if timed_out.is_set():
            raise BuildFailed(f"expected compiled code within {self._deadline_s:g} s; the build was killed")
        return output

    def _kill(self) -> None:
        """Kill the process group of the child."""
        child = self._child
        if child is None or child.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def main() -> None:
    """Build the request read from standard input; the last line printed is `done`, or the fault."""
    request = BuildRequest(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    if not request.awaited:
        _lower_priority()
    with tempfile.TemporaryDirectory(dir=request.folder) as scratch:
        # torch reads these when it is imported. Its default is a folder in /tmp that other users can predict and fill.
        os.environ |= {"TORCHINDUCTOR_CACHE_DIR": scratch, "TRITON_CACHE_DIR": scratch, "TMPDIR": scratch}
        tempfile.tempdir = scratch
        try:
            _build(request)
        except Exception as error:  # noqa: BLE001 - the compiler raises any type; the parent gets its name
            line = next(iter(str(error).strip().splitlines()), "no message")
            print(f"{type(error).__name__}: {line[:300]}")  # noqa: T201 - read by the parent
            return
    print("done")  # noqa: T201 - read by the parent


def _build(request: BuildRequest) -> None:
    import torch  # noqa: PLC0415 - after the folders of its caches are set

    from forecaster.model.chronos2.architecture import Chronos2  # noqa: PLC0415
    from forecaster.model.chronos2.checkpoint_config import Architecture  # noqa: PLC0415
    from forecaster.model.chronos2.core import Core, Missing, Shape  # noqa: PLC0415

    torch.set_num_threads(request.threads)
    with torch.device("meta"):
        model = Chronos2(Architecture.model_validate(request.config))
    model = model.to_empty(device=request.device).eval().requires_grad_(requires_grad=False)
    rows, bars, patches, missing, group = request.shape
    core = Core(model, Shape(rows, bars, patches, Missing(missing), group))
    example_BT = torch.zeros(rows, bars, device=request.device)
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        program = torch.export.export(core, (example_BT,))
        torch._inductor.aoti_compile_and_package(  # noqa: SLF001 - the documented name of AOTInductor
            program,
            package_path=str(Path(request.folder) / PACKAGE),
            inductor_configs={
                "aot_inductor.package_constants_in_so": False,
                "aot_inductor.precompile_headers": False,  # they would be used once: 7 s more
                "compile_threads": 1,
            },
        )


def _lower_priority() -> None:
    """Run only when the processor is idle."""
    os.nice(19)
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _exit_with_parent() -> None:
    sys.stdin.read()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
