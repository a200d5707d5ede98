"""What forecasts: the port, and the one way to load a model. A baseline is a model too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forecaster.bars import Context
    from forecaster.config import ModelConfig
    from forecaster.forecast import ModelId, OHLCForecast
    from forecaster.model.chronos2.wrapper import Chronos2OHLCWrapper


class Model(Protocol):
    """Forecasts the next bars of many series at once; a forecast never depends on its neighbours."""

    @property
    def name(self) -> str:
        """What the configuration calls it."""

    @property
    def id(self) -> ModelId:
        """What the ledger calls it: its name, and a digest of what runs; of a baseline, the version of its code."""

    @property
    def engine(self) -> str:
        """What runs it now: `compiled` or `eager` for Chronos-2, `numpy` for a baseline."""

    @property
    def engine_reason(self) -> str:
        """Why that engine, in one sentence."""

    def predict(self, contexts: Sequence[Context], horizon: int) -> list[OHLCForecast]:
        """Forecast `horizon` bars after each context, in the order of `contexts`.

        Raises:
            InvalidContext: for a call that no model could answer.
            InferenceError: when the model failed on a valid call.
            NonFiniteForecast: when it answered NaN or infinity.
        """


def load_model(config: ModelConfig) -> Chronos2OHLCWrapper:
    """Load the model that the configuration names.

    Raises:
        ModelLoadError: when its weights are missing, damaged or of another kind.
    """
    from forecaster.model.chronos2.compilers import CompileSettings  # noqa: PLC0415 - the same
    from forecaster.model.chronos2.wrapper import Chronos2OHLCWrapper  # noqa: PLC0415 - torch only for who forecasts

    settings = CompileSettings(config.compile, config.compiler, config.compiled_folder)
    return Chronos2OHLCWrapper.from_pretrained(
        config.id, revision=config.revision, compile=settings, device=config.device
    )


def model_id_of(config: ModelConfig) -> ModelId:
    """Give the id that `load_model(config)` will have, from the files of the model; torch is not imported.

    Raises:
        ModelLoadError: when its files are missing or damaged.
    """
    from forecaster.forecast import ModelId  # noqa: PLC0415 - beside load_model
    from forecaster.model.chronos2.checkpoint_files import find_checkpoint  # noqa: PLC0415 - the same

    return ModelId.of(config.id, find_checkpoint(config.id, config.revision).digest)


def load_baselines(config: ModelConfig) -> list[Model]:
    """Make the baselines that the configuration names.

    Raises:
        ConfigError: for an unknown name.
    """
    from forecaster.model.baselines.simple import baseline  # noqa: PLC0415 - beside load_model

    return [baseline(name) for name in config.baselines]
