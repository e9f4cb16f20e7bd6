"""What changes a model's answers without changing the model: LoRA adapters and control vectors."""

from __future__ import annotations

import hashlib
import os
import weakref
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import gguf_file
from .errors import ContextError, ModelError, UsageError
from .native import log
from .native.handle import Handle
from .native.loader import Library, load

if TYPE_CHECKING:
    from .context import Context
    from .model import Model

_PREFIX = "direction."


class Lora(Handle):
    """A LoRA adapter for a model, from a GGUF file. `Context.set_loras` uses it, with a scale.

    Closing it takes it out of every context first; closing the model closes it. Raises ModelError, with
    llama.cpp's own words, when the file does not fit the model.
    """

    def __init__(self, model: Model, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.model = model
        gguf_file.check_whole(gguf_file.read(self.path))
        library = load()
        self._library = library
        users: weakref.WeakSet[Context] = weakref.WeakSet()
        self.users = users
        with model.lock, log.collected() as lines:
            ptr = library.raw.llama_adapter_lora_init(model.ptr, os.fsencode(self.path))
            words = lines()
            if ptr != library.ffi.NULL:
                super().__init__(ptr, _freeing(library, users), parent=model)
        if ptr == library.ffi.NULL:
            raise ModelError(
                f"{self.path} cannot be used with {model.path.name}: {words or 'it does not fit'}"
            )

    def __repr__(self) -> str:
        return f"<Lora {self.path.name}{' (closed)' if self.closed else ''}>"


def _freeing(library: Library, users: weakref.WeakSet[Context]) -> Callable[[Any], None]:
    def free(ptr: Any) -> None:
        for context in list(users):
            with context.lock:
                left = [(one, scale) for one, scale in context.loras if not one.closed]
                if not context.closed and len(left) < len(context.loras):
                    apply_loras(context, left)
        library.raw.llama_adapter_lora_free(ptr)

    return free


def set_loras(context: Context, loras: Lora | Sequence[Lora] | Mapping[Lora, float]) -> None:
    """Use these adapters from the next decode on; see `Context.set_loras`."""
    if isinstance(loras, Lora):
        loras = [loras]
    chosen = dict(loras) if isinstance(loras, Mapping) else dict.fromkeys(loras, 1.0)
    for lora, scale in chosen.items():
        if lora.model is not context.model:
            raise ContextError(f"{lora!r} was loaded for another model: load it for this one")
        if not -1e6 < scale < 1e6:
            raise UsageError(f"a scale of {scale} is no number to multiply an adapter by")
    with context.lock:
        apply_loras(context, list(chosen.items()))


def apply_loras(context: Context, chosen: list[tuple[Lora, float]]) -> None:
    """Tell llama.cpp; the caller holds the context's lock."""
    context.adapters_changed()
    library = context.library
    raw, ffi = library.raw, library.ffi
    pointers = [lora.ptr for lora, _ in chosen]
    if hasattr(raw, "llama_set_adapters_lora"):
        scales = ffi.new("float[]", [scale for _, scale in chosen])
        raw.llama_set_adapters_lora(
            context.ptr, ffi.new("struct llama_adapter_lora *[]", pointers), len(pointers), scales
        )
    else:
        raw.llama_clear_adapter_lora(context.ptr)
        for (_, scale), pointer in zip(chosen, pointers, strict=True):
            raw.llama_set_adapter_lora(context.ptr, pointer, scale)
    context.loras = chosen
    for lora, _ in chosen:
        lora.users.add(context)


@dataclass(frozen=True)
class ControlVector:
    """A direction for each of some layers, added to what the layer gives out. Plain data, of no model.

    Vectors can be added and multiplied: `0.8 * happy + 0.2 * formal`. Raises UsageError for directions of
    different lengths, or none.
    """

    layers: Mapping[int, array[float]]
    """The number of a layer, from 1 on, and as many numbers as the model's embeddings have."""

    def __post_init__(self) -> None:
        if not self.layers or min(self.layers) < 1:
            raise UsageError("a control vector has directions for layers from 1 on: give at least one")
        if len({len(values) for values in self.layers.values()}) > 1:
            raise UsageError("the directions of a control vector have different lengths: make them equal")

    @property
    def width(self) -> int:
        """Numbers in each direction."""
        return len(next(iter(self.layers.values())))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ControlVector:
        """Read a GGUF file with tensors `direction.1`, `direction.2` … of 32-bit floats.

        Raises ModelError when it holds something else.
        """
        file = gguf_file.read(path)
        gguf_file.check_whole(file)
        layers: dict[int, array[float]] = {}
        with file.path.open("rb") as stream:
            for tensor in file.tensors:
                number = tensor.name.removeprefix(_PREFIX)
                if not tensor.name.startswith(_PREFIX) or not number.isdecimal() or int(number) < 1:
                    raise ModelError(f"{file.path} is no control vector: it holds a tensor {tensor.name!r}")
                if tensor.type != "f32" or len(tensor.shape) != 1:
                    raise ModelError(f"{file.path} is no control vector: {tensor.name} is no row of f32")
                stream.seek(tensor.offset)
                layers[int(number)] = array("f", stream.read(tensor.nbytes))
        try:
            return cls(layers)
        except UsageError as error:
            raise ModelError(f"{file.path}: {error}") from None

    def __mul__(self, scale: float) -> ControlVector:
        return ControlVector(
            {i: array("f", [scale * value for value in values]) for i, values in self.layers.items()}
        )

    __rmul__ = __mul__

    def __add__(self, other: ControlVector) -> ControlVector:
        if self.width != other.width:
            raise UsageError(f"directions of {self.width} and {other.width} numbers cannot be added")
        layers = dict(self.layers)
        for i, values in other.layers.items():
            mine = layers.get(i)
            layers[i] = values if mine is None else array("f", map(float.__add__, mine, values))
        return ControlVector(layers)

    def __repr__(self) -> str:
        return f"<ControlVector of {len(self.layers)} layers, {self.width} numbers each>"


def set_control_vector(context: Context, vector: ControlVector | None) -> None:
    """Add a control vector from the next decode on, or none; see `Context.set_control_vector`."""
    raw, ffi = context.library.raw, context.library.ffi
    # Two names of one function: the older one is that of 2025-08.
    newer = hasattr(raw, "llama_set_adapter_cvec")
    apply = raw.llama_set_adapter_cvec if newer else raw.llama_apply_adapter_cvec
    with context.lock:
        n_embd = int(raw.llama_model_n_embd(context.model.ptr))
        n_layer = int(raw.llama_model_n_layer(context.model.ptr))
        if vector is None:
            context.adapters_changed()
            apply(context.ptr, ffi.NULL, 0, n_embd, 0, 0)
            context.control_hash = ""
            return
        if vector.width != n_embd:
            raise UsageError(f"the model's layers give {n_embd} numbers, {vector!r} does not fit it")
        last = max(vector.layers)
        if last >= n_layer:
            raise UsageError(f"the control vector is for layer {last}, the model's last one is {n_layer - 1}")
        # Layer 0 has none. What is not given is 0: llama.cpp would keep an earlier vector's numbers there.
        data = array("f", bytes(4 * n_embd * (n_layer - 1)))
        for i, values in vector.layers.items():
            data[n_embd * (i - 1) : n_embd * i] = values
        context.adapters_changed()
        code = apply(context.ptr, ffi.from_buffer("float[]", data), len(data), n_embd, 1, n_layer)
        context.control_hash = hashlib.sha256(data).hexdigest()
    if code != 0:
        raise ContextError("the control vector could not be put on the model's devices: free some memory")
