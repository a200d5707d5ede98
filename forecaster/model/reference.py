"""The reference patch: what a checkpoint that was trained with it is shown behind the last bar.

Chronos-2 standardises each row of a group by itself and gives rows no names. So a model of open, high, low and close
cannot see how far the low lies below the close, nor which row is which. One patch more tells it both: the last close
in every row, but for a quarter that is missing, the first of the open's, the second of the high's, and so on.

Shapes: C the four price fields, p slots of a patch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from forecaster.bars import FIELDS

if TYPE_CHECKING:
    from chronos.chronos2 import Chronos2Model
    from numpy.typing import NDArray

REFERENCE_PATCH = "reference_patch"
"""A key of `config.json`, true where the model was trained so."""


def reference_bars(model: Chronos2Model) -> int:
    """How many slots a checkpoint's reference patch has: those of a patch, or none."""
    patch: int = model.chronos_config.input_patch_size
    return patch if getattr(model.config, REFERENCE_PATCH, False) else 0


def reference_patch(last_close: float, slots: int) -> NDArray[np.float64]:
    """The patch (C, p) behind a bar that closed at `last_close`; nothing for no slots."""
    reference_Cp = np.full((len(FIELDS), slots), last_close)
    quarter = slots // len(FIELDS)
    for row, reference_p in enumerate(reference_Cp):
        reference_p[row * quarter : (row + 1) * quarter] = np.nan
    return reference_Cp
