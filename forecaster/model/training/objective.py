"""The loss that trains a Chronos-2 here: upstream's own, weighed by how far prices typically reach, and a penalty.

Knows quantiles and outcomes, nothing of models. Prices are less the last close, which is 0.

Shapes: S series, F fields, B = S·F rows, T bars, K futures, Q quantile levels, H steps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from forecaster.model.chronos2.core import OHLC_GROUP

RECENT_BARS = 32
MOST_MOVES = 30.0
LEAST_GAP = 0.2
MARGIN = 0.01
MOST_COMPRESSED = 8.0


class Standard(NamedTuple):
    """How rows were standardised, (B, 1) each: price = loc + scale · sinh(compressed)."""

    loc_B1: torch.Tensor
    scale_B1: torch.Tensor


class Losses(NamedTuple):
    """What quantiles cost: by their distance to outcomes, and by how far they are beyond possible."""

    reach: torch.Tensor
    impossible: torch.Tensor


def losses_of(
    found_BQH: torch.Tensor,
    futures_BKH: torch.Tensor,
    standard: Standard,
    past_SFT: torch.Tensor,
    levels_Q: torch.Tensor,
) -> Losses:
    """Judge compressed quantiles by futures in prices, after a past in prices.

    Upstream's loss counts by share of the context's spread: a move within a long trend hardly matters, nor does the
    gap before an open. Here each field and step counts by how far it typically is from the last close.
    """
    loc_B1, scale_B1 = standard
    actual_BKH = ((futures_BKH - loc_B1[:, :, None]) / scale_B1[:, :, None]).arcsinh()
    move_S11 = typical_move(past_SFT, scale_B1[3::OHLC_GROUP])
    unit_B1 = (scale_B1**2 + loc_B1**2).sqrt()  # the price of one compressed unit at the last close
    weight_BH = unit_B1 / typical_reach(past_SFT, move_S11, futures_BKH.shape[2]).flatten(0, 1)
    loss_BH = weight_BH * quantile_loss(found_BQH, actual_BKH, levels_Q)
    prices_BQH = found_BQH.clamp(-MOST_COMPRESSED, MOST_COMPRESSED).sinh() * scale_B1[:, :, None] + loc_B1[:, :, None]
    moves_SFQH = prices_BQH.view(-1, OHLC_GROUP, *prices_BQH.shape[1:]) / move_S11[..., None]
    step_H = torch.arange(1, loss_BH.shape[1] + 1, device=loss_BH.device)
    return Losses(loss_BH.mean(), (impossibility(moves_SFQH) / step_H.sqrt()).mean())


def typical_move(past_SFT: torch.Tensor, scale_S1: torch.Tensor) -> torch.Tensor:
    """Mean absolute move of the last closes, (S, 1, 1), not below a share of the contexts' scales."""
    move_S = past_SFT[:, 3, -RECENT_BARS:].diff(dim=1).abs().nanmean(dim=1, keepdim=True).nan_to_num(nan=0.0)
    return move_S.maximum(scale_S1 / MOST_MOVES)[:, :, None]


def typical_reach(past_SFT: torch.Tensor, move_S11: torch.Tensor, steps: int) -> torch.Tensor:
    """How far from the last close each field typically is at each step, (S, F, H).

    √h moves; but an open lies a gap behind the close before it, and gaps have a size of their own.
    """
    opens_ST, closes_ST = past_SFT[:, 0, -RECENT_BARS:], past_SFT[:, 3, -RECENT_BARS:]
    gap_S = (opens_ST[:, 1:] - closes_ST[:, :-1]).abs().nanmean(dim=1).nan_to_num(nan=0.0)
    gap_S1 = gap_S[:, None].maximum(LEAST_GAP * move_S11[:, 0]).minimum(move_S11[:, 0])
    step_H = torch.arange(1, steps + 1, device=past_SFT.device)
    reach_SFH = (move_S11 * step_H.sqrt()).repeat(1, OHLC_GROUP, 1)
    reach_SFH[:, 0] = (gap_S1**2 + (step_H - 1) * move_S11[:, 0] ** 2).sqrt()
    return reach_SFH


def quantile_loss(found_BQH: torch.Tensor, actual_BKH: torch.Tensor, levels_Q: torch.Tensor) -> torch.Tensor:
    """Upstream's loss by row and step, (B, H), mean over futures: twice the pinball loss, summed over levels."""
    error_BKQH = actual_BKH[:, :, None] - found_BQH[:, None]
    levels_Q1 = levels_Q[:, None]
    return 2 * torch.maximum(levels_Q1 * error_BKQH, (levels_Q1 - 1) * error_BKQH).sum(dim=2).mean(dim=1)


def impossibility(prices_SFQH: torch.Tensor) -> torch.Tensor:
    """By how much quantiles fall with their level, and fields cross at a level, summed, (S, H); units are the prices'.

    Nothing as long as each rises, and each field keeps its place, by a margin.
    """
    open_SQH, high_SQH, low_SQH, close_SQH = prices_SFQH.unbind(dim=1)
    gaps = [prices_SFQH.diff(dim=2).flatten(1, 2)]
    gaps += [high_SQH - open_SQH, high_SQH - close_SQH, open_SQH - low_SQH, close_SQH - low_SQH]
    return (MARGIN - torch.cat(gaps, dim=1)).relu().sum(dim=1)
