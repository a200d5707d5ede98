"""Forecast a replay on many machines: Ray actors, one model each, take batches of contexts and keep their order.

Only forecasting leaves this process. Calibration, stamping and writing happen here, in the order of cutoffs, so the
result equals that of a replay without Ray. Ray restarts a worker that dies and repeats its open batches. Needs the
extra `ray`.
"""

from __future__ import annotations

import os
from collections import deque
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from forecaster.config import Config
from forecaster.engine import Forecaster
from forecaster.errors import ConfigError
from forecaster.model import load_baselines, model_id_of
from forecaster.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from forecaster.context import Context
    from forecaster.cycle.predict import Predictions
    from forecaster.forecast import ModelId

_IN_FLIGHT = 2
_RETRIES = 5


class RayWorkers:
    """Forecasters in other processes, on this machine or a cluster; use it in a `with` block.

    On exit it stops its workers, and Ray itself if it was not running before.

    Args:
        config: models and settings.
        count: number of workers.
        address: of a cluster, such as `ray://host:10001`; this machine by default.

    Raises:
        ConfigError: if Ray is not installed.
    """

    def __init__(self, config: Config, count: int, address: str | None = None) -> None:
        try:
            import ray  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise ConfigError("ray", "pip install 'forecaster[ray]'", str(error)) from error
        self._ray: Any = ray
        self._config = config
        self._count = count
        self._address = address
        self._actors: list[Any] = []
        self._is_ours = False

    def __enter__(self) -> Self:
        """Start Ray, or use the caller's session and leave it running.

        Raises:
            ConfigError: for an address although Ray is running already: it may be another cluster.
        """
        self._is_ours = not self._ray.is_initialized()
        if self._is_ours:
            self._ray.init(address=self._address, include_dashboard=False, log_to_driver=False, configure_logging=False)
        elif self._address is not None:
            raise ConfigError("address", "none, since this process is connected to Ray already", self._address)
        try:
            config = self._config.model_dump_json()  # without secrets, which stay in this process
            worker = self._ray.remote(num_cpus=1, max_restarts=_RETRIES, max_task_retries=_RETRIES)(_Worker)
            self._actors = [worker.remote(config) for _ in range(self._count)]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []
        if self._is_ours:
            self._ray.shutdown()

    @cached_property
    def model_ids(self) -> list[ModelId]:
        """Ids of the model and its baselines, without loading weights here."""
        return [model_id_of(self._config.model), *(model.id for model in load_baselines(self._config.model))]

    def pids(self) -> list[int]:
        """Process ids of the workers, each on its machine."""
        return [int(pid) for pid in self._ray.get([actor.pid.remote() for actor in self._actors])]

    def __call__(self, batches: Iterable[list[Context]]) -> Iterator[Predictions]:
        """Forecast each batch, a few ahead of the predictions that were read."""
        pending: deque[Any] = deque()
        for i, contexts in enumerate(batches):
            pending.append(self._actors[i % len(self._actors)].predict.remote(contexts))
            if len(pending) >= _IN_FLIGHT * len(self._actors):
                yield self._ray.get(pending.popleft())
        while pending:
            yield self._ray.get(pending.popleft())


class _Worker:
    """A worker: a `Forecaster` of which only the models are used."""

    def __init__(self, config: str) -> None:
        """Read a configuration from JSON."""
        self._forecaster = Forecaster(Config.model_validate_json(config), MemoryStore())

    def pid(self) -> int:
        """Return the process id."""
        return os.getpid()

    def predict(self, contexts: list[Context]) -> Predictions:
        """Forecast a batch."""
        return self._forecaster.predict_contexts(contexts)
