"""The `config.json` of a checkpoint: what decides its modules and its numbers, checked before anything is made of it.

It is read without torch: whoever names a model, and does not run it, reads this file and no weights.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

_BUNDLED: Final = "15e2170cdd21b5a914309decbee92f827a9cc8b6025d12c2d044c0e5398a088b"
_BUNDLED_KNOWN_AS: Final = "6f9a56fd2b855e97028327085e18c190fdb9903dcdc30779d99b60595b9e595f"
"""The bundled checkpoint keeps the digest that ledgers have known it by: that of its weights alone."""

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
"""Keys that transformers writes, and that decide no forecast of a Chronos-2: they are ignored, whatever they say.

Weights are used as float32. Tokens other than REG, and T5's decoder and relative positions, are no part of the model.
"""


class _Record(BaseModel):
    """Part of a `config.json`; a key that is not known could change the forecast elsewhere, and is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Record):
    """What `config.json` calls `chronos_config`: patches, context, horizon and quantile levels."""

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
        """Divide positions by the context's length where the file names nothing else."""
        if isinstance(values, dict) and values.get("time_encoding_scale") is None:
            return values | {"time_encoding_scale": values.get("context_length")}
        return values

    @model_validator(mode="after")
    def _check(self) -> Limits:
        if list(self.quantiles) != sorted(set(self.quantiles)):
            raise ValueError(f"quantiles: expected levels that rise, found {self.quantiles!s:.200}")
        if self.context_length < 2 * self.input_patch_size:
            raise ValueError(f"context_length: expected at least two patches, found {self.context_length}")
        return self


class Architecture(_Record):
    """What decides the modules of a Chronos-2; defaults are those of `Chronos2CoreConfig`."""

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
        """The most bars that the model forecasts."""
        return self.chronos_config.max_output_patches * self.chronos_config.output_patch_size

    @property
    def max_context(self) -> int:
        """The most bars that it sees; the patch behind them, where there is one, takes the place of some."""
        limits = self.chronos_config
        return limits.context_length - (limits.input_patch_size if self.reference_patch else 0)

    @property
    def unsupported(self) -> str | None:
        """Why it cannot be run here: what the forward pass does not have, or a forecast needs; None when it can be."""
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
    """Give the sha256 that tells two checkpoints apart: of the weights, and of what decides how they are used.

    The architecture counts as it was understood: neither the order of its keys, nor a default that is written out, nor
    metadata.
    """
    understood = json.dumps(architecture.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
    digest = hashlib.sha256(f"{weights_sha256}\n{understood}".encode()).hexdigest()
    return _BUNDLED_KNOWN_AS if digest == _BUNDLED else digest
