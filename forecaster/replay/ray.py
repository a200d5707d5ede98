"""The same replay on many machines: batches of contexts go through Ray's actors, one model each, and keep their order.

Only forecasting leaves this process. What is calibrated, stamped and written is written here, once and in the order of
cutoffs, so the result is that of a replay without Ray. A worker that dies is started again by Ray, and what it had not
answered is asked again. Needs the extra `ray`.
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

    from forecaster.bars import Context
    from forecaster.cycle.predict import Answers
    from forecaster.forecast import ModelId

_IN_FLIGHT = 2
_RETRIES = 5


class Workers:
    """Forecasters in processes of their own, on this machine or a cluster; use it in a `with` block.

    Only what it has begun ends with the block: its workers, and Ray itself where nobody had begun it before.

    Args:
        config: what they forecast with.
        count: how many.
        address: of a cluster, such as `ray://host:10001`; this machine when left out.

    Raises:
        ConfigError: when Ray is not installed.
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
        """Begin a session of Ray, or join the one that the caller has begun, which is then left as it was.

        Raises:
            ConfigError: for an address while the caller has a session: it may be of another cluster.
        """
        self._is_ours = not self._ray.is_initialized()
        if self._is_ours:
            self._ray.init(address=self._address, include_dashboard=False, log_to_driver=False, configure_logging=False)
        elif self._address is not None:
            raise ConfigError("address", "none, since this process is connected to Ray already", self._address)
        try:
            told = self._config.model_dump_json()  # without secrets, which stay in this process
            worker = self._ray.remote(num_cpus=1, max_restarts=_RETRIES, max_task_retries=_RETRIES)(_Worker)
            self._actors = [worker.remote(told) for _ in range(self._count)]
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
        """Who answers, told without loading the model's weights here."""
        return [model_id_of(self._config.model), *(one.id for one in load_baselines(self._config.model))]

    def pids(self) -> list[int]:
        """Process ids of the workers, on whichever machine each runs."""
        return [int(pid) for pid in self._ray.get([one.pid.remote() for one in self._actors])]

    def __call__(self, batches: Iterable[list[Context]]) -> Iterator[Answers]:
        """Ask for each batch, a few ahead of the answers that have been taken."""
        waiting: deque[Any] = deque()
        for i, contexts in enumerate(batches):
            waiting.append(self._actors[i % len(self._actors)].ask.remote(contexts))
            if len(waiting) >= _IN_FLIGHT * len(self._actors):
                yield self._ray.get(waiting.popleft())
        while waiting:
            yield self._ray.get(waiting.popleft())


class _Worker:
    """One of the processes, with a thread for itself as Ray has it: a `Forecaster` that only asks its models."""

    def __init__(self, config: str) -> None:
        """Read a configuration from JSON, and load its models."""
        self._forecaster = Forecaster(Config.model_validate_json(config), MemoryStore())

    def pid(self) -> int:
        """Which process this is."""
        return os.getpid()

    def ask(self, contexts: list[Context]) -> Answers:
        """Answer a batch."""
        return self._forecaster.ask(contexts)
