"""Where compiled code comes from: kept packages, a child process that builds one, or torch.compile itself.

What is given here has not been checked: `compiled` compares it with eager before it serves.
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
from forecaster.model.chronos2.builder import Builder, Order
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
        mode: `auto` builds what pays and serves what is quicker than eager; `on` builds at first sight and serves
            what is right; `off` never compiles.
        compiler: `package` builds in a child process and keeps the result; the others are torch.compile's own modes.
        folder: where packages are kept.
        build_after_s: under `auto`, seconds of eager work that a shape must have cost before it is built.
        deadline_s: seconds after which a build is given up.
        rest_s: seconds that a shape rests after a fault; doubled by each further one.
        sample_every: of so many compiled batches, one is compared with eager.
    """

    mode: CompileMode = "auto"
    compiler: Compiler = "package"
    folder: Path = COMPILED_FOLDER
    build_after_s: float = 5.0
    deadline_s: float = 900.0
    rest_s: float = 300.0
    sample_every: int = 64


class Candidate(NamedTuple):
    """Compiled code that nobody has checked, what is known of it, and why it could not be kept."""

    run: Run
    note: Note = Note("")
    refusal: ArtifactsRefused | None = None


class PackageCompiler:
    """AOTInductor packages: found among those of earlier runs, else built in a child process and kept.

    Args:
        model: the live checkpoint, whose weights packages are bound to.
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
        """Load what an earlier run kept for this shape.

        Raises:
            ArtifactsRefused: when what is there cannot be trusted.
        """
        kept = self._artifacts.find(self._key(bucket))
        return None if kept is None else Candidate(self._load(bucket, kept[0]), kept[1])

    def build(self, bucket: Bucket, *, awaited: bool) -> Candidate:
        """Build for this shape, keep and load it; out of everyone's way, unless somebody waits for it.

        Raises:
            ArtifactsRefused: when others could replace what is built, before it is loaded.
            BuildFailed: when the child fails, is killed, or takes too long.
        """
        shape = bucket.shape
        with tempfile.TemporaryDirectory() as folder:
            own_folder(Path(folder))
            order = Order(
                config=self._model.config.model_dump(),
                shape=(shape.rows, shape.bars, shape.patches, shape.missing.value, shape.group),
                device=str(self._model.device),
                threads=torch.get_num_threads(),
                folder=folder,
                awaited=awaited,
            )
            built = self.builder.build(order)
            try:
                package, note = self._artifacts.keep(self._key(bucket), built)
            except ArtifactsRefused as refusal:
                return Candidate(self._load(bucket, built), refusal=refusal)
            return Candidate(self._load(bucket, package), note)

    def note(self, bucket: Bucket, note: Note) -> None:
        """Write down what was measured; where that fails, it is measured again."""
        if note.sha256:
            with suppress(OSError):
                self._artifacts.write_note(self._key(bucket), note)

    def discard(self, bucket: Bucket, reason: str) -> None:
        """Put a package aside that failed, so that the next one is built afresh."""
        with suppress(ArtifactsRefused):
            self._artifacts.quarantine(self._key(bucket), reason)

    def _key(self, bucket: Bucket) -> ArtifactKey:
        return ArtifactKey.of(*self._identity, self._model.device, bucket.shape)

    def _load(self, bucket: Bucket, package: Path) -> Run:
        """Load a package and bind it to the live weights, which it shares with eager.

        By the loader behind torch's `aoti_load_package`, which would import 139 modules of the compiler first.
        """
        loader = torch._C._aoti.AOTIModelPackageLoader(str(package), "model", False, 1, -1)  # noqa: FBT003, SLF001
        weights = dict(bucket.eager.named_parameters()) | dict(bucket.eager.named_buffers())
        bound = {name: weights[name] for name in loader.get_constant_fqns()}
        loader.load_constants(bound, use_inactive=False, check_full_update=True, user_managed=True)
        return lambda standard_BT: loader.boxed_run([standard_BT])[0]


def compile_in_process(bucket: Bucket, settings: CompileSettings) -> Candidate:
    """One of torch.compile's own modes; its outputs are copied, since CUDA graphs write them again.

    Raises:
        ArtifactsRefused: when its cache, which torch unpickles, would not be ours alone.
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
