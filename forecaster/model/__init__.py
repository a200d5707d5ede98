"""Models: the protocol of a model, and how the configured ones are loaded. A baseline is a model too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from forecaster.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from forecaster.config import ModelConfig
    from forecaster.context import Context
    from forecaster.forecast import ModelId, OHLCForecast
    from forecaster.model.chronos2.compiled import ModelStatus
    from forecaster.model.chronos2.wrapper import Chronos2OHLCWrapper


class Model(Protocol):
    """Forecasts the next bars of many series at once; forecasts do not depend on the other series of the batch."""

    @property
    def name(self) -> str:
        """Its name in the configuration."""

    @property
    def id(self) -> ModelId:
        """Its name in the ledger: `name`, and a digest of its weights or the version of its arithmetic."""

    @property
    def engine(self) -> str:
        """What ran the latest forecast: `compiled` or `eager` for Chronos-2, `numpy` for a baseline."""

    @property
    def engine_reason(self) -> str:
        """Why that engine, in one sentence."""

    def predict(self, contexts: Sequence[Context], horizon: int) -> list[OHLCForecast]:
        """Forecast `horizon` bars after each context, in the order of `contexts`.

        Raises:
            InvalidArgument: for a horizon that the model does not have.
            InvalidContext: for a context that the model cannot forecast from.
            InferenceError: when the model fails on a valid call.
            NonFiniteForecast: when the model returns NaN or infinity.
        """


@runtime_checkable
class CompilableModel(Model, Protocol):
    """A model with a forward pass that may be compiled."""

    forward_seconds: float
    """Time spent in the forward pass so far."""

    def status(self) -> ModelStatus:
        """Describe the engine of each batch shape seen so far."""


class Baseline(Model, Protocol):
    """A model without weights, created by its name."""

    name: str

    def __init__(self) -> None: ...

    @property
    def max_context(self) -> int | None:
        """Most bars that it uses; None for no limit."""


@dataclass(frozen=True)
class ModelSuite:
    """The models that forecast each series: the primary model, whose forecasts are served, and its baselines.

    Iterates over the primary model first, then the baselines.
    """

    primary: Model
    baselines: Sequence[Model] = ()

    def __post_init__(self) -> None:
        """Refuse anything but models."""
        if not all(hasattr(model, "predict") for model in self):
            raise InvalidArgument("models", "a primary model, and a sequence of baselines", f"{self!r:.100}")

    def __iter__(self) -> Iterator[Model]:
        return iter([self.primary, *self.baselines])


def load_suite(config: ModelConfig) -> ModelSuite:
    """Load the configured model and its baselines.

    Raises:
        ConfigError: for an unknown baseline.
        ModelLoadError: when the weights are missing, damaged or of another kind of model.
    """
    return ModelSuite(load_model(config), load_baselines(config))


def load_model(config: ModelConfig) -> Chronos2OHLCWrapper:
    """Load the configured model.

    Raises:
        ModelLoadError: when the weights are missing, damaged or of another kind of model.
    """
    from forecaster.model.chronos2.compilers import CompileSettings  # noqa: PLC0415 - it imports torch
    from forecaster.model.chronos2.wrapper import Chronos2OHLCWrapper  # noqa: PLC0415 - the same

    settings = CompileSettings(config.compile, config.compiler, config.compiled_folder)
    return Chronos2OHLCWrapper.from_pretrained(
        config.id, revision=config.revision, compile=settings, device=config.device
    )


def load_baselines(config: ModelConfig) -> list[Baseline]:
    """Create the configured baselines.

    Raises:
        ConfigError: for an unknown name.
    """
    from forecaster.model.baselines import create_baseline  # noqa: PLC0415 - beside load_model

    return [create_baseline(name) for name in config.baselines]


def model_id_of(config: ModelConfig) -> ModelId:
    """Return the id that `load_model(config)` will have, read from the model's files without torch.

    Raises:
        ModelLoadError: when the files are missing or damaged.
    """
    from forecaster.forecast import ModelId  # noqa: PLC0415 - beside load_model
    from forecaster.model.chronos2.checkpoint_files import find_checkpoint  # noqa: PLC0415 - the same

    return ModelId.of(config.id, find_checkpoint(config.id, config.revision).digest)
