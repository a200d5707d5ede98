"""The training loss: upstream's quantile loss, weighted by the typical move of prices, and a penalty.

It depends on quantiles and outcomes, not on a model. Prices are relative to the last close, which is 0.

Shapes: S series, F fields, B = S·F rows, T bars, K futures, Q quantile levels, H steps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from forecaster.model.chronos2.core import OHLC_GROUP

RECENT_BARS = 32
MAX_MOVES = 30.0
MIN_GAP = 0.2
MARGIN = 0.01
MAX_COMPRESSED = 8.0


class Standard(NamedTuple):
    """Location and scale of the rows, (B, 1) each: price = loc + scale · sinh(compressed)."""

    loc_B1: torch.Tensor
    scale_B1: torch.Tensor


class TrainingLosses(NamedTuple):
    """Weighted quantile loss, and the size of crossings: quantiles that fall with their level, fields that cross."""

    quantile: torch.Tensor
    crossing: torch.Tensor


def training_losses(
    predicted_BQH: torch.Tensor,
    futures_BKH: torch.Tensor,
    standard: Standard,
    past_SFT: torch.Tensor,
    levels_Q: torch.Tensor,
) -> TrainingLosses:
    """Compute the losses of compressed quantiles against futures in prices, given the past in prices.

    Upstream's loss is relative to the spread of the context, in which a move within a long trend, or the gap before an
    open, hardly counts. Here each field and step is weighted by its typical distance from the last close.
    """
    loc_B1, scale_B1 = standard
    actual_BKH = ((futures_BKH - loc_B1[:, :, None]) / scale_B1[:, :, None]).arcsinh()
    move_S11 = typical_move(past_SFT, scale_B1[3::OHLC_GROUP])
    unit_B1 = (scale_B1**2 + loc_B1**2).sqrt()  # the price of one compressed unit at the last close
    weight_BH = unit_B1 / typical_distance(past_SFT, move_S11, futures_BKH.shape[2]).flatten(0, 1)
    loss_BH = weight_BH * quantile_loss(predicted_BQH, actual_BKH, levels_Q)
    prices_BQH = predicted_BQH.clamp(-MAX_COMPRESSED, MAX_COMPRESSED).sinh() * scale_B1[:, :, None] + loc_B1[:, :, None]
    moves_SFQH = prices_BQH.view(-1, OHLC_GROUP, *prices_BQH.shape[1:]) / move_S11[..., None]
    step_H = torch.arange(1, loss_BH.shape[1] + 1, device=loss_BH.device)
    return TrainingLosses(loss_BH.mean(), (crossing(moves_SFQH) / step_H.sqrt()).mean())


def typical_move(past_SFT: torch.Tensor, scale_S1: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute move of the last closes, (S, 1, 1), with a floor relative to the context's scale."""
    move_S = past_SFT[:, 3, -RECENT_BARS:].diff(dim=1).abs().nanmean(dim=1, keepdim=True).nan_to_num(nan=0.0)
    return move_S.maximum(scale_S1 / MAX_MOVES)[:, :, None]


def typical_distance(past_SFT: torch.Tensor, move_S11: torch.Tensor, steps: int) -> torch.Tensor:
    """Return the typical distance of each field from the last close at each step, (S, F, H).

    It is √h moves, except for opens: an open is a gap after the close before it, and gaps have their own size.
    """
    opens_ST, closes_ST = past_SFT[:, 0, -RECENT_BARS:], past_SFT[:, 3, -RECENT_BARS:]
    gap_S = (opens_ST[:, 1:] - closes_ST[:, :-1]).abs().nanmean(dim=1).nan_to_num(nan=0.0)
    gap_S1 = gap_S[:, None].maximum(MIN_GAP * move_S11[:, 0]).minimum(move_S11[:, 0])
    step_H = torch.arange(1, steps + 1, device=past_SFT.device)
    distance_SFH = (move_S11 * step_H.sqrt()).repeat(1, OHLC_GROUP, 1)
    distance_SFH[:, 0] = (gap_S1**2 + (step_H - 1) * move_S11[:, 0] ** 2).sqrt()
    return distance_SFH


def quantile_loss(predicted_BQH: torch.Tensor, actual_BKH: torch.Tensor, levels_Q: torch.Tensor) -> torch.Tensor:
    """Return upstream's loss by row and step, (B, H), mean over futures: twice the pinball loss, summed over levels."""
    error_BKQH = actual_BKH[:, :, None] - predicted_BQH[:, None]
    levels_Q1 = levels_Q[:, None]
    return 2 * torch.maximum(levels_Q1 * error_BKQH, (levels_Q1 - 1) * error_BKQH).sum(dim=2).mean(dim=1)


def crossing(prices_SFQH: torch.Tensor) -> torch.Tensor:
    """Return by how much quantiles fall with their level and fields cross, summed, (S, H), in units of the prices.

    It is 0 if quantiles rise, and low, open, close and high are in order, by a margin.
    """
    open_SQH, high_SQH, low_SQH, close_SQH = prices_SFQH.unbind(dim=1)
    gaps = [prices_SFQH.diff(dim=2).flatten(1, 2)]
    gaps += [high_SQH - open_SQH, high_SQH - close_SQH, open_SQH - low_SQH, close_SQH - low_SQH]
    return (MARGIN - torch.cat(gaps, dim=1)).relu().sum(dim=1)
