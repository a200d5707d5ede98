"""The modules of a Chronos-2, which hold its weights: upstream's names, shapes and defaults, without transformers.

Their configuration is checked in `checkpoint_config`. The forward pass is in `core`. It also runs on upstream's own
model, which training and fine-tuning use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from forecaster.model.chronos2.checkpoint_config import Architecture


class Chronos2(nn.Module):
    """Weights of a Chronos-2, uninitialised on the device `meta`.

    Attributes:
        config: the architecture.
        chronos_config: its limits.
    """

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        limits = config.chronos_config
        self.config = config
        self.chronos_config = limits
        self.shared = _Tokens(2 if limits.use_reg_token else 1, config.d_model)
        self.input_patch_embedding = Residual(3 * limits.input_patch_size, config.d_ff, config.d_model)
        self.encoder = _Encoder(config)
        outputs = len(limits.quantiles) * limits.output_patch_size
        self.output_patch_embedding = Residual(config.d_model, config.d_ff, outputs)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.shared.weight.device


class _Tokens(nn.Module):
    """Embeddings of the special tokens, (tokens, D); `nn.Embedding` would import torch's compiler."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(tokens, width))


class Residual(nn.Module):
    """Sum of a hidden layer and a linear layer: (…, in) to (…, out)."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.hidden_layer = nn.Linear(inputs, hidden)
        self.output_layer = nn.Linear(hidden, outputs)
        self.residual_layer = nn.Linear(inputs, outputs)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of both layers."""
        out: torch.Tensor = self.output_layer(self.hidden_layer(values).relu()) + self.residual_layer(values)
        return out


class _Encoder(nn.Module):
    def __init__(self, config: Architecture) -> None:
        super().__init__()
        self.block = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_layer_norm = Norm(config)


class Block(nn.Module):
    """`layer`: attention over time, attention over the group, feed-forward."""

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        time, across = AttentionLayer(config, rotated=True), AttentionLayer(config, rotated=False)
        self.layer = nn.ModuleList([time, across, FeedForward(config)])


class AttentionLayer(nn.Module):
    """Attention and the norm before it."""

    def __init__(self, config: Architecture, *, rotated: bool) -> None:
        super().__init__()
        self.self_attention = Attention(config, rotated=rotated)
        self.layer_norm = Norm(config)


class Attention(nn.Module):
    """Projections of attention with several heads; `rope_embed` only with rotary positions."""

    def __init__(self, config: Architecture, *, rotated: bool) -> None:
        super().__init__()
        self.n_heads = config.num_heads
        self.kv_proj_dim = config.d_kv
        inner = config.num_heads * config.d_kv
        self.q = nn.Linear(config.d_model, inner, bias=False)
        self.k = nn.Linear(config.d_model, inner, bias=False)
        self.v = nn.Linear(config.d_model, inner, bias=False)
        self.o = nn.Linear(inner, config.d_model, bias=False)
        if rotated:
            self.rope_embed = _Rotary(config)


class _Rotary(nn.Module):
    """Inverse frequencies, (d / 2,), of rotary positions (Su et al., 2021, "RoFormer")."""

    inv_freq: torch.Tensor

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        even = torch.arange(0, config.d_kv, 2, dtype=torch.int64, device="cpu").float()
        self.register_buffer("inv_freq", 1.0 / (config.rope_theta ** (even / config.d_kv)), persistent=False)


class Norm(nn.Module):
    """Weight of root mean square normalisation, as in T5."""

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.d_model))
        self.variance_epsilon = config.layer_norm_epsilon


class FeedForward(nn.Module):
    """A perceptron and the norm before it."""

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        self.mlp = _Perceptron(config)
        self.layer_norm = Norm(config)


class _Perceptron(nn.Module):
    def __init__(self, config: Architecture) -> None:
        super().__init__()
        self.wi = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.wo(self.wi(states).relu())
        return out
