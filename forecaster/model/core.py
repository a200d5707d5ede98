"""The forward pass of a Chronos-2 model for batches of uniform OHLC groups: what is compiled.

Nothing here looks at values: whatever depends on data is decided by the caller, before the graph.

Shapes: B rows (four per series: open, high, low, close), T bars, Q quantile levels, H steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from chronos.chronos2 import Chronos2Model

GROUP = 4

if TYPE_CHECKING:
    Forward = Callable[[torch.Tensor, int], torch.Tensor]


def grouped_forward(model: Chronos2Model) -> Forward:
    """Bind a model: `forward(context_BT, patches)` gives quantiles (B, Q, patches · 16).

    Future covariates are left out instead of passed as NaN: the output is bit-identical, and the
    branch in `_prepare_patched_future` that breaks a compiled graph is never traced.
    """

    def forward(context_BT: torch.Tensor, patches: int) -> torch.Tensor:
        group_ids_B = torch.arange(context_BT.shape[0], device=context_BT.device) // GROUP
        quantiles_BQH: torch.Tensor = model(
            context=context_BT, group_ids=group_ids_B, num_output_patches=patches
        ).quantile_preds
        return quantiles_BQH

    return forward
