"""Options of a context that features bring, which must be known before its memory is allocated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import UsageError

if TYPE_CHECKING:
    from .native.loader import Library


@dataclass(frozen=True)
class Option:
    """A keyword of `Context`: the feature that has it, and its setter in C."""

    feature: str
    setter: str


OPTIONS: Mapping[str, Option] = {
    "n_layers": Option("layer-exit", "llama_context_options_set_n_layer"),
    "kv_block_size": Option("kv-blocks", "llama_context_options_set_kv_block_size"),
    "kv_tokens": Option("kv-blocks", "llama_context_options_set_kv_tokens"),
    "kv_demand_paged": Option("kv-blocks", "llama_context_options_set_kv_demand_paged"),
    "n_experts": Option("moe-experts", "llama_context_options_set_n_expert_used"),
}


COMPUTED_WITH = (
    "rope_scaling_type",
    "rope_freq_base",
    "rope_freq_scale",
    "yarn_ext_factor",
    "yarn_attn_factor",
    "yarn_beta_fast",
    "yarn_beta_slow",
    "yarn_orig_ctx",
    "attention_type",
)
"""Fields of `llama_context_params` by which the same tokens give another state."""


def changed(params: Any, defaults: Any) -> dict[str, str]:
    """Return those of `COMPUTED_WITH` that are not as llama.cpp has them."""
    pairs = {name: (str(getattr(params, name)), str(getattr(defaults, name))) for name in COMPUTED_WITH}
    return {name: value for name, (value, default) in pairs.items() if value != default}


def split(keywords: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part what was given to a context into options of features and the rest; None is as if not given."""
    options = {name: value for name, value in keywords.items() if name in OPTIONS and value is not None}
    return options, {name: value for name, value in keywords.items() if name not in OPTIONS}


def needed(library: Library, name: str) -> Any:
    """Return the functions of a library that has an option. Raises UsageError for one that has not."""
    if not hasattr(library.raw, OPTIONS[name].setter):
        feature = OPTIONS[name].feature
        raise UsageError(
            f"{name} needs the feature {feature}, which this build is without: build it with that"
        )
    return library.raw


def new_context(library: Library, model: Any, params: Any, options: Mapping[str, Any]) -> Any:
    """Make a context of a model and return it, NULL when llama.cpp refuses.

    Raises UsageError for an option that this build does not have, or a value that it cannot hold.
    """
    raw, ffi = library.raw, library.ffi
    if not options:
        return raw.llama_init_from_model(model, params)
    for name in options:
        needed(library, name)
    chosen = ffi.gc(raw.llama_context_options_init(), raw.llama_context_options_free)
    for name, value in options.items():
        try:
            taken = getattr(raw, OPTIONS[name].setter)(chosen, value)
        except (OverflowError, TypeError) as error:
            raise UsageError(f"{name}={value!r} is no value for it: {error}") from None
        if taken is False:
            raise UsageError(f"{name}={value!r} is no value for it")
    return raw.llama_init_from_model_with(model, params, chosen)
