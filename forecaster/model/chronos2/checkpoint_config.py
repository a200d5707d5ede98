"""The `config.json` of a checkpoint: its architecture and limits, checked before use.

This module does not import torch: naming a model without running it needs no weights.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

_BUNDLED: Final = "15e2170cdd21b5a914309decbee92f827a9cc8b6025d12c2d044c0e5398a088b"
_BUNDLED_LEDGER_DIGEST: Final = "6f9a56fd2b855e97028327085e18c190fdb9903dcdc30779d99b60595b9e595f"
"""Digest of the bundled checkpoint in existing ledgers: that of its weights alone."""

NEEDED_LEVELS: Final = (0.1, 0.5, 0.9)

_Size = Annotated[int, Field(ge=1, le=65_536, strict=True)]
_Number = Annotated[int, Field(ge=1, le=1_024, strict=True)]
_Bars = Annotated[int, Field(ge=1, le=1 << 24, strict=True)]
_Level = Annotated[float, Field(gt=0, lt=1, strict=True)]


METADATA: Final = frozenset(
    {
        *("_name_or_path", "architectures", "chronos_pipeline_class", "model_type", "transformers_version"),
        *("dtype", "torch_dtype", "_attn_implementation_autoset", "problem_type", "id2label", "label2id"),
        *("return_dict", "output_attentions", "output_hidden_states", "use_cache", "chunk_size_feed_forward"),
        *("dropout_rate", "classifier_dropout", "initializer_factor", "vocab_size", "tie_word_embeddings"),
        *("is_decoder", "is_encoder_decoder", "num_decoder_layers", "scale_decoder_outputs", "n_positions"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
        *("relative_attention_max_distance", "relative_attention_num_buckets"),
    }
)
"""Keys written by transformers that do not affect a forecast of a Chronos-2; they are ignored.

Weights are used as float32. Tokens other than REG, T5's decoder and relative positions are not part of the model.
"""


class _Record(BaseModel):
    """Part of a `config.json`; unknown keys are refused, since they could change the forecast elsewhere."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Record):
    """The section `chronos_config`: patches, context, horizon and quantile levels."""

    context_length: _Bars
    output_patch_size: _Size
    input_patch_size: _Size
    input_patch_stride: _Size
    quantiles: Annotated[tuple[_Level, ...], Field(min_length=1)]
    use_reg_token: StrictBool = False
    use_arcsinh: StrictBool = False
    max_output_patches: _Size = 1
    time_encoding_scale: _Bars

    @model_validator(mode="before")
    @classmethod
    def _fill_scale(cls, values: object) -> object:
        """Set the default scale of positions: the length of the context."""
        if isinstance(values, dict) and values.get("time_encoding_scale") is None:
            return values | {"time_encoding_scale": values.get("context_length")}
        return values

    @model_validator(mode="after")
    def _check(self) -> Limits:
        if list(self.quantiles) != sorted(set(self.quantiles)):
            raise ValueError(f"quantiles: expected ascending levels, found {self.quantiles!s:.200}")
        if self.context_length < 2 * self.input_patch_size:
            raise ValueError(f"context_length: expected at least two patches, found {self.context_length}")
        return self


class Architecture(_Record):
    """Configuration of the modules of a Chronos-2; defaults are those of `Chronos2CoreConfig`."""

    chronos_config: Limits
    d_model: _Size = 512
    d_kv: Annotated[int, Field(ge=2, le=65_536, multiple_of=2, strict=True)] = 64
    d_ff: _Size = 2048
    num_layers: _Number = 6
    num_heads: _Number = 8
    layer_norm_epsilon: Annotated[float, Field(ge=0, le=1, strict=True)] = 1e-6
    feed_forward_proj: str = "relu"
    dense_act_fn: Literal["relu"] = "relu"
    is_gated_act: Literal[False] = False
    rope_theta: Annotated[float, Field(ge=1, le=1e12, strict=True)] = 10_000.0
    reference_patch: StrictBool = False
    reg_token_id: Literal[1] = 1

    @model_validator(mode="before")
    @classmethod
    def _ignore_metadata(cls, values: object) -> object:
        if isinstance(values, dict):
            return {name: value for name, value in values.items() if name not in METADATA}
        return values

    @property
    def max_horizon(self) -> int:
        """Most bars that the model can forecast."""
        return self.chronos_config.max_output_patches * self.chronos_config.output_patch_size

    @property
    def max_context(self) -> int:
        """Most bars of context that the model uses; a reference patch takes the place of some."""
        limits = self.chronos_config
        return limits.context_length - (limits.input_patch_size if self.reference_patch else 0)

    @property
    def unsupported(self) -> str | None:
        """Reason why the forward pass does not support it, or None."""
        limits = self.chronos_config
        if not (limits.use_reg_token and limits.use_arcsinh):
            return "a checkpoint without REG token or arcsinh scaling"
        if len({limits.input_patch_stride, limits.input_patch_size, limits.output_patch_size}) > 1:
            sizes = f"{limits.input_patch_size} in, {limits.output_patch_size} out"
            return f"patches that overlap or differ: {sizes}, stride {limits.input_patch_stride}"
        if self.feed_forward_proj != "relu":
            return f"an activation other than relu: {self.feed_forward_proj}"
        if not set(NEEDED_LEVELS) <= {round(level, 6) for level in limits.quantiles}:
            return f"quantile levels without one of {', '.join(map(str, NEEDED_LEVELS))}"
        return None


def checkpoint_digest(weights_sha256: str, architecture: Architecture) -> str:
    """Return the sha256 that identifies a checkpoint: of its weights and its architecture.

    The order of keys, explicit defaults and metadata do not change it.
    """
    canonical = json.dumps(architecture.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
    digest = hashlib.sha256(f"{weights_sha256}\n{canonical}".encode()).hexdigest()
    return _BUNDLED_LEDGER_DIGEST if digest == _BUNDLED else digest
