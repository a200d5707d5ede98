"""Sources of compiled code: stored packages, a child process that builds one, or torch.compile.

The code is not checked here: `promotion` compares it with eager before it serves.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from forecaster.config import COMPILED_FOLDER
from forecaster.model.chronos2.artifacts import ArtifactKey, Artifacts, Note
from forecaster.model.chronos2.builder import Builder, BuildRequest
from forecaster.model.chronos2.private_folder import ArtifactsRefused, own_folder

if TYPE_CHECKING:
    from forecaster.model.chronos2.architecture import Chronos2
    from forecaster.model.chronos2.bucket import Bucket, Run

CompileMode = Literal["auto", "on", "off"]
Compiler = Literal["package", "default", "reduce-overhead", "max-autotune"]

_RECOMPILE_LIMIT = 256


@dataclass(frozen=True)
class CompileSettings:
    """How compiled code comes into service.

    Attributes:
        mode: `auto` builds frequent shapes and serves code that is faster than eager; `on` builds every shape at once
            and serves code that is correct; `off` never compiles.
        compiler: `package` builds in a child process and stores the result; the others are modes of torch.compile.
        folder: where packages are stored.
        build_after_s: under `auto`, seconds of eager work on a shape before it is built.
        deadline_s: seconds after which a build is killed.
        cool_down_s: seconds without compiled code after a fault; doubled by each further fault.
        sample_every: one of this many compiled batches is compared with eager.
    """

    mode: CompileMode = "auto"
    compiler: Compiler = "package"
    folder: Path = COMPILED_FOLDER
    build_after_s: float = 5.0
    deadline_s: float = 900.0
    cool_down_s: float = 300.0
    sample_every: int = 64


class Candidate(NamedTuple):
    """Unchecked compiled code, its note, and why it could not be stored."""

    run: Run
    note: Note = Note("")
    refusal: ArtifactsRefused | None = None


class PackageCompiler:
    """AOTInductor packages: loaded from earlier runs, or built in a child process and stored.

    Args:
        model: the live checkpoint, whose weights packages use.
        model_sha256: digest of the weights and of the architecture that uses them.
        versions: of the libraries that compiled code depends on.
        settings: folder and deadline.
    """

    def __init__(self, model: Chronos2, model_sha256: str, versions: str, settings: CompileSettings) -> None:
        self._model = model
        self._identity = (model_sha256, versions)
        self._artifacts = Artifacts(settings.folder)
        self.builder = Builder(settings.deadline_s)

    def find(self, bucket: Bucket) -> Candidate | None:
        """Load the stored package of this shape.

        Raises:
            ArtifactsRefused: when the package cannot be trusted.
        """
        stored = self._artifacts.find(self._key(bucket))
        return None if stored is None else Candidate(self._load(bucket, stored[0]), stored[1])

    def build(self, bucket: Bucket, *, awaited: bool) -> Candidate:
        """Build, store and load a package of this shape; at lowest priority, unless `awaited`.

        Raises:
            ArtifactsRefused: when other users could replace the package before it is loaded.
            BuildFailed: when the child fails, is killed, or takes too long.
        """
        shape = bucket.shape
        with tempfile.TemporaryDirectory() as folder:
            own_folder(Path(folder))
            request = BuildRequest(
                config=self._model.config.model_dump(),
                shape=(shape.rows, shape.bars, shape.patches, shape.missing.value, shape.group),
                device=str(self._model.device),
                threads=torch.get_num_threads(),
                folder=folder,
                awaited=awaited,
            )
            built = self.builder.build(request)
            try:
                package, note = self._artifacts.store(self._key(bucket), built)
            except ArtifactsRefused as refusal:
                return Candidate(self._load(bucket, built), refusal=refusal)
            return Candidate(self._load(bucket, package), note)

    def note(self, bucket: Bucket, note: Note) -> None:
        """Store the measured times; if that fails, they are measured again."""
        if note.sha256:
            with suppress(OSError):
                self._artifacts.write_note(self._key(bucket), note)

    def discard(self, bucket: Bucket, reason: str) -> None:
        """Quarantine a package that failed, so that the next one is built anew."""
        with suppress(ArtifactsRefused):
            self._artifacts.quarantine(self._key(bucket), reason)

    def _key(self, bucket: Bucket) -> ArtifactKey:
        return ArtifactKey.of(*self._identity, self._model.device, bucket.shape)

    def _load(self, bucket: Bucket, package: Path) -> Run:
        """Load a package that uses the live weights, shared with eager.

        Uses the loader behind torch's `aoti_load_package`, which would import 139 modules of the compiler.
        """
        loader = torch._C._aoti.AOTIModelPackageLoader(str(package), "model", False, 1, -1)  # noqa: FBT003, SLF001
        weights = dict(bucket.eager.named_parameters()) | dict(bucket.eager.named_buffers())
        bound = {name: weights[name] for name in loader.get_constant_fqns()}
        loader.load_constants(bound, use_inactive=False, check_full_update=True, user_managed=True)
        return lambda standard_BT: loader.boxed_run([standard_BT])[0]


def compile_in_process(bucket: Bucket, settings: CompileSettings) -> Candidate:
    """Compile in a mode of torch.compile; outputs are copied, since CUDA graphs reuse their memory.

    Raises:
        ArtifactsRefused: when other users may write its cache, which torch unpickles.
    """
    cache = settings.folder.expanduser() / "inductor"
    own_folder(cache.parent)
    own_folder(cache)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
    compiled = torch.compile(bucket.eager, fullgraph=True, dynamic=False, mode=settings.compiler)

    def run(standard_BT: torch.Tensor) -> torch.Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        with torch._dynamo.config.patch(recompile_limit=_RECOMPILE_LIMIT):  # noqa: SLF001 - one graph per shape
            quantiles_BQH: torch.Tensor = compiled(standard_BT)
        return quantiles_BQH.clone()

    return Candidate(run)
