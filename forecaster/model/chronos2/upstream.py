"""chronos-forecasting's own model with the weights of a checkpoint: used by fine-tuning and benchmarks."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from forecaster.model.chronos2.checkpoint import library_versions

if TYPE_CHECKING:
    from chronos.chronos2 import Chronos2Model

    from forecaster.model.chronos2.architecture import Chronos2


def to_upstream(model: Chronos2) -> Chronos2Model:
    """Copy a loaded checkpoint into upstream's model, in evaluation mode, on the same device.

    Upstream gets checked settings and loaded weights, never the folder: it would load adapters and code from it.
    """
    from chronos.chronos2 import Chronos2Model  # noqa: PLC0415 - it imports transformers
    from chronos.chronos2.config import Chronos2CoreConfig  # noqa: PLC0415 - the same
    from transformers.utils import logging as hub_logging  # noqa: PLC0415 - the same

    hub_logging.disable_progress_bar()
    ours = {"architectures": ["Chronos2Model"], "dropout_rate": 0, "attn_implementation": "sdpa"}
    config = Chronos2CoreConfig(**model.config.model_dump(mode="json"), **ours)
    upstream = Chronos2Model(config).to(model.device)
    upstream.load_state_dict(model.state_dict())
    return upstream.eval().requires_grad_(requires_grad=False)


def upstream_versions() -> str:
    """Return names and versions of the libraries that compute upstream's forecasts."""
    upstream = (f"{name} {version(name)}" for name in ("chronos-forecasting", "transformers"))
    return ", ".join([library_versions(), *upstream])
