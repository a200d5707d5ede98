"""Build compiled code in a process of its own: out of the way, with a deadline, killed when its parent goes.

The parent calls `Builder.build`; the child is `python -m forecaster.model.chronos2.builder`. It needs the checkpoint's
configuration and a shape, and no weights: a package holds none, they are bound to the live model when it is loaded.
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
    """No package came out; the message says which of the child's faults it was."""


@dataclass(frozen=True)
class Order:
    """What the child is asked for, sent to it as one line of JSON; out of everyone's way, unless it is awaited."""

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

    def build(self, order: Order) -> Path:
        """Build the package and give its path, in `order.folder`.

        An assertion of the symbolic shapes fails at random (pytorch#163876), so that one is tried twice.

        Raises:
            BuildFailed: when the child fails, is killed, or takes too long.
        """
        try:
            return self._build_once(order)
        except BuildFailed as fault:
            if "AssertionError" not in str(fault):
                raise
        return self._build_once(order)

    def close(self) -> None:
        """Kill the child, if there is one, and start none any more."""
        self._closed.set()
        self._kill()

    def _build_once(self, order: Order) -> Path:
        if self._closed.is_set():
            raise BuildFailed("the model was unloaded")
        with subprocess.Popen(
            [sys.executable, "-m", "forecaster.model.chronos2.builder"],
            cwd=Path(__file__).parents[3],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,  # what a dead child did not read must not be written again when the pipe is closed
            start_new_session=True,
        ) as child:
            self._child = child
            if self._closed.is_set():  # meanwhile, by another thread, which saw no child to kill
                self._kill()
            try:
                # The pipe stays open: the child ends when it closes, which it also does when this process is killed.
                told = self._talk(child, json.dumps(dataclasses.asdict(order)))
            finally:
                self._kill()
        package = Path(order.folder) / PACKAGE
        if told != "done" or not package.is_file():
            raise BuildFailed(
                told or f"expected a package, found that the compiler ended with {self._child.returncode}"
            )
        return package

    def _talk(self, child: subprocess.Popen[bytes], line: str) -> str:
        """Send the order and wait for the last line of the answer."""
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._kill()

        clock = threading.Timer(self._deadline_s, stop)
        clock.daemon = True
        clock.start()
        try:
            assert child.stdin is not None  # noqa: S101 - for the type checker: they are pipes
            assert child.stdout is not None  # noqa: S101
            child.stdin.write(f"{line}\n".encode())
            answer = child.stdout.read().decode(errors="replace").strip().rpartition("\n")[2]
        except BrokenPipeError:
            answer = ""
        finally:
            clock.cancel()
        child.wait()
        if late.is_set():
            raise BuildFailed(f"expected compiled code within {self._deadline_s:g} s, and gave up")
        return answer

    def _kill(self) -> None:
        """End the child and what it started: they are a process group of their own."""
        child = self._child
        if child is None or child.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def main() -> None:
    """Build what the order on standard input asks for; the last line printed is `done`, or the fault."""
    order = Order(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_die_with_parent, daemon=True).start()
    if not order.awaited:
        _step_back()
    with tempfile.TemporaryDirectory(dir=order.folder) as scratch:
        # Read when torch is imported; its default is a folder in /tmp that others can guess and fill.
        os.environ |= {"TORCHINDUCTOR_CACHE_DIR": scratch, "TRITON_CACHE_DIR": scratch, "TMPDIR": scratch}
        tempfile.tempdir = scratch
        try:
            _build(order)
        except Exception as error:  # noqa: BLE001 - the compiler raises any type; the parent is told which
            line = next(iter(str(error).strip().splitlines()), "no message")
            print(f"{type(error).__name__}: {line[:300]}")  # noqa: T201 - its answer
            return
    print("done")  # noqa: T201 - its answer


def _build(order: Order) -> None:
    import torch  # noqa: PLC0415 - after the folders of its caches are set

    from forecaster.model.chronos2.architecture import Chronos2  # noqa: PLC0415
    from forecaster.model.chronos2.checkpoint_config import Architecture  # noqa: PLC0415
    from forecaster.model.chronos2.core import Core, Missing, Shape  # noqa: PLC0415

    torch.set_num_threads(order.threads)
    with torch.device("meta"):
        model = Chronos2(Architecture.model_validate(order.config))
    model = model.to_empty(device=order.device).eval().requires_grad_(requires_grad=False)
    rows, bars, patches, missing, group = order.shape
    core = Core(model, Shape(rows, bars, patches, Missing(missing), group))
    example_BT = torch.zeros(rows, bars, device=order.device)
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        program = torch.export.export(core, (example_BT,))
        torch._inductor.aoti_compile_and_package(  # noqa: SLF001 - the documented name of AOTInductor
            program,
            package_path=str(Path(order.folder) / PACKAGE),
            inductor_configs={
                "aot_inductor.package_constants_in_so": False,
                "aot_inductor.precompile_headers": False,  # they would be used once: 7 s more
                "compile_threads": 1,
            },
        )


def _step_back() -> None:
    """Run only when nobody else wants the processor."""
    os.nice(19)
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _die_with_parent() -> None:
    sys.stdin.read()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
