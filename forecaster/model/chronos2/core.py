"""The forward pass of a Chronos-2 checkpoint for uniform groups, run eager or compiled.

Equal to chronos-forecasting's own forward pass on the same weights, for rows in groups of one size: four for open,
high, low and close, five with a past covariate, one for a single series. With uniform groups, attention inside them is
a reshape: no mask over the batch, and no work that grows with its square. Missing values are detected on the host
(`Missing`), so that the graph does not branch on values.

`standardise` is outside the graph, with upstream's own operations: the deviation of a constant row is rounding error,
and would differ between compilers.

Shapes: B rows, G rows per group, S = B / G groups, T bars, P context patches of p bars, N output patches,
L = P + 1 + N tokens (patches, REG, output patches), M query tokens, A heads of width d, D model width,
Q quantile levels, H = N · p steps.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from forecaster.model.chronos2.architecture import Attention, AttentionLayer, Block, Chronos2, FeedForward, Norm

OHLC_GROUP = 4
SMALLEST_SCALE = 1e-5


class Missing(Enum):
    """What is missing in a batch; each further kind costs a little more work."""

    NOTHING = "nothing"
    BARS = "bars"
    PATCHES = "patches"

    @classmethod
    def of(cls, context_BT: torch.Tensor, patch: int) -> Missing:
        """Return what is missing in a batch, computed on the host."""
        missing_BT = context_BT.isnan()
        if not missing_BT.any():
            return cls.NOTHING
        return cls.PATCHES if missing_BT.view(len(missing_BT), -1, patch).all(dim=2).any() else cls.BARS


class Shape(NamedTuple):
    """Shape of one graph: rows in groups of `group`, `bars` of context, `patches` of output, what is missing."""

    rows: int
    bars: int
    patches: int
    missing: Missing = Missing.NOTHING
    group: int = OHLC_GROUP

    @classmethod
    def of(cls, context_BT: torch.Tensor, patches: int, group: int, patch: int) -> Shape:
        """Return the shape of a batch, computed on the host."""
        rows, bars = context_BT.shape
        return cls(rows, bars, patches, Missing.of(context_BT, patch), group)


class _Tables(NamedTuple):
    """Shared by all blocks: rotations (L, d / 2) and, where patches are missing, additive masks."""

    cos_Ld: torch.Tensor
    sin_Ld: torch.Tensor
    time_B11L: torch.Tensor | None
    group_S1GL1: torch.Tensor | None


def standardise(context_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return rows with mean 0 and deviation 1 over known values, (B, T), and means and deviations, (B, 1) each."""
    loc_B1 = context_BT.nanmean(dim=1, keepdim=True).nan_to_num(nan=0.0)
    scale_B1 = (context_BT - loc_B1).square().nanmean(dim=1, keepdim=True).sqrt().nan_to_num(nan=1.0)
    scale_B1 = torch.where(scale_B1 == 0, SMALLEST_SCALE, scale_B1)
    return (context_BT - loc_B1) / scale_B1, loc_B1, scale_B1


class Core(torch.nn.Module):
    """The compiled part: from standardised rows (B, T) to quantiles (B, Q, H) in units of each row's deviation.

    The last block runs for the output tokens only. Future tokens have no covariates, and are embedded once for the
    whole batch. Upstream's pipeline passes future covariates as NaN, which gives the same numbers.

    Args:
        model: the checkpoint, in evaluation mode; its weights are shared, not copied.
        shape: T is a multiple of the patch, rows of a group are adjacent; eager takes any number of rows.
    """

    def __init__(self, model: Chronos2, shape: Shape) -> None:
        super().__init__()
        self.model = model
        self.shape = shape

    def forward(self, standard_BT: torch.Tensor) -> torch.Tensor:
        """Return quantiles (B, Q, H)."""
        return self.compressed(standard_BT).sinh()

    def compressed(self, standard_BT: torch.Tensor) -> torch.Tensor:
        """Return the inverse hyperbolic sine of the quantiles (B, Q, H), the scale of training."""
        model, (_, _, patches, missing, group) = self.model, self.shape
        patch = model.chronos_config.output_patch_size
        *body, last = cast("list[Block]", model.encoder.block)
        scaled_BPp = standard_BT.arcsinh().view(len(standard_BT), -1, patch)
        known_BPp = None if missing is Missing.NOTHING else ~scaled_BPp.isnan()
        hidden_BLD = _embed(model, scaled_BPp, known_BPp, patches)
        tables = _tables(model, hidden_BLD, known_BPp if missing is Missing.PATCHES else None, group)
        for block in body:
            hidden_BLD = _block(block, hidden_BLD, hidden_BLD.shape[1], tables, group)
        output_BND = _block(last, hidden_BLD, patches, tables, group)
        output_BND = _normed(model.encoder.final_layer_norm, output_BND)
        quantiles_BNQp = model.output_patch_embedding(output_BND).view(len(standard_BT), patches, -1, patch)
        quantiles_BQH: torch.Tensor = quantiles_BNQp.transpose(1, 2).flatten(2)
        return quantiles_BQH


def grouped_forward(model: Chronos2, context_BT: torch.Tensor, patches: int, group: int) -> torch.Tensor:
    """Return quantiles (B, Q, H) for contexts (B, T) by the whole forward pass, eager."""
    shape = Shape.of(context_BT, patches, group, model.chronos_config.output_patch_size)
    standard_BT, loc_B1, scale_B1 = standardise(context_BT)
    quantiles_BQH: torch.Tensor = Core(model, shape)(standard_BT)
    return quantiles_BQH * scale_B1[:, :, None] + loc_B1[:, :, None]


def _embed(model: Chronos2, scaled_BPp: torch.Tensor, known_BPp: torch.Tensor | None, patches: int) -> torch.Tensor:
    """Embed context patches, REG and output patches as tokens, (B, L, D).

    The input of a patch is its time, its values and their mask; only time is known for the future.
    """
    rows, context_patches, patch = scaled_BPp.shape
    steps = torch.arange(-context_patches * patch, patches * patch, device=scaled_BPp.device, dtype=torch.float32)
    time = (steps / model.chronos_config.time_encoding_scale).view(-1, patch)
    past_BPp, future_1Np = time[:context_patches].expand_as(scaled_BPp), time[None, context_patches:]
    if known_BPp is None:
        mask_BPp = torch.ones_like(scaled_BPp)
    else:
        mask_BPp = known_BPp.to(scaled_BPp.dtype)
        scaled_BPp = torch.where(known_BPp, scaled_BPp, 0.0)
    nothing_1Np = torch.zeros_like(future_1Np)
    context_BPD = model.input_patch_embedding(torch.cat([past_BPp, scaled_BPp, mask_BPp], dim=2))
    future_1ND = model.input_patch_embedding(torch.cat([future_1Np, nothing_1Np, nothing_1Np], dim=2))
    register_11D = model.shared.weight[model.config.reg_token_id].expand(1, 1, -1)
    return torch.cat([context_BPD, torch.cat([register_11D, future_1ND], dim=1).expand(rows, -1, -1)], dim=1)


def _tables(model: Chronos2, hidden_BLD: torch.Tensor, known_BPp: torch.Tensor | None, group: int) -> _Tables:
    """Compute rotations by position and, for `known_BPp`, masks of missing patches."""
    tokens = hidden_BLD.shape[1]
    frequency_d = cast("list[Any]", model.encoder.block)[0].layer[0].self_attention.rope_embed.inv_freq
    angle_Ld = torch.arange(tokens, device=hidden_BLD.device, dtype=torch.float32)[:, None] * frequency_d
    if known_BPp is None:
        return _Tables(angle_Ld.cos(), angle_Ld.sin(), None, None)
    known_BP = known_BPp.any(dim=2)
    known_BL = functional.pad(known_BP, (0, tokens - known_BP.shape[1]), value=True)
    hidden_from_BL = torch.where(known_BL, 0.0, torch.finfo(hidden_BLD.dtype).min)
    group_S1GL1 = hidden_from_BL.view(-1, 1, group, tokens, 1)
    return _Tables(angle_Ld.cos(), angle_Ld.sin(), hidden_from_BL[:, None, None], group_S1GL1)


def _block(block: Block, hidden_BLD: torch.Tensor, queries: int, tables: _Tables, group: int) -> torch.Tensor:
    """Run a block for the last `queries` tokens, (B, M, D): attention over time, over the group, feed-forward."""
    time, across, feed = cast("tuple[AttentionLayer, AttentionLayer, FeedForward]", block.layer)
    hidden_BMD = hidden_BLD[:, -queries:] + _time_attention(
        time.self_attention, _normed(time.layer_norm, hidden_BLD), queries, tables
    )
    hidden_BMD = hidden_BMD + _group_attention(
        across.self_attention, _normed(across.layer_norm, hidden_BMD), tables.group_S1GL1, group
    )
    out_BMD: torch.Tensor = hidden_BMD + feed.mlp(_normed(feed.layer_norm, hidden_BMD))
    return out_BMD


def _time_attention(mha: Attention, normed_BLD: torch.Tensor, queries: int, tables: _Tables) -> torch.Tensor:
    query_BAMd = _rotated(_heads(mha.q(normed_BLD[:, -queries:]), mha.n_heads), tables)
    key_BALd = _rotated(_heads(mha.k(normed_BLD), mha.n_heads), tables)
    value_BALd = _heads(mha.v(normed_BLD), mha.n_heads)
    attended_BAMd = functional.scaled_dot_product_attention(
        query_BAMd, key_BALd, value_BALd, attn_mask=tables.time_B11L, scale=1.0
    )
    out_BMD: torch.Tensor = mha.o(attended_BAMd.transpose(1, 2).flatten(2))
    return out_BMD


def _group_attention(
    mha: Attention, normed_BMD: torch.Tensor, mask_S1GL1: torch.Tensor | None, group: int
) -> torch.Tensor:
    """Attend over the rows of a group, at each token.

    Written out, since the matrices are G × G: a general attention kernel took up to 3.5 times as long.
    """
    value_BMD = mha.v(normed_BMD)
    out_BMD: torch.Tensor
    if group == 1:
        out_BMD = mha.o(value_BMD)
        return out_BMD
    queries = normed_BMD.shape[1]
    query_SGMAd, key_SGMAd, value_SGMAd = (
        states_BMD.view(-1, group, queries, mha.n_heads, mha.kv_proj_dim)
        for states_BMD in (mha.q(normed_BMD), mha.k(normed_BMD), value_BMD)
    )
    score_SGGMA = (query_SGMAd[:, :, None] * key_SGMAd[:, None]).sum(dim=5)
    if mask_S1GL1 is not None:
        score_SGGMA = score_SGGMA + mask_S1GL1[:, :, :, -queries:]
    weight_SGGMA = score_SGGMA.softmax(dim=2)
    attended_SGMAd = (weight_SGGMA[..., None] * value_SGMAd[:, None]).sum(dim=2)
    out_BMD = mha.o(attended_SGMAd.flatten(3).flatten(0, 1))
    return out_BMD


def _heads(states_BLD: torch.Tensor, heads: int) -> torch.Tensor:
    """Split the width into heads, (B, A, L, d)."""
    return states_BLD.view(*states_BLD.shape[:2], heads, -1).transpose(1, 2)


def _rotated(states_BAMd: torch.Tensor, tables: _Tables) -> torch.Tensor:
    """Apply rotary position embedding (Su et al., 2021, "RoFormer"); halves are paired as in upstream."""
    queries = states_BAMd.shape[2]
    cos, sin = tables.cos_Ld[-queries:], tables.sin_Ld[-queries:]
    first, second = states_BAMd.chunk(2, dim=3)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=3)


def _normed(norm: Norm, states: torch.Tensor) -> torch.Tensor:
    """Apply root mean square normalisation, as in T5."""
    return functional.rms_norm(states, states.shape[-1:], norm.weight, norm.variance_epsilon)
