"""What a GGUF file says of itself, read without loading the model."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ModelError
from .markup import size, table
from .native import log
from .native.loader import Library, load

_MAGIC = b"GGUF"

Value = bool | int | float | str | list[bool] | list[int] | list[float] | list[str]

_SCALARS = {
    "UINT8": "u8",
    "INT8": "i8",
    "UINT16": "u16",
    "INT16": "i16",
    "UINT32": "u32",
    "INT32": "i32",
    "UINT64": "u64",
    "INT64": "i64",
    "FLOAT32": "f32",
    "FLOAT64": "f64",
    "BOOL": "bool",
    "STRING": "str",
}
_ELEMENTS = {
    "UINT8": "uint8_t",
    "INT8": "int8_t",
    "UINT16": "uint16_t",
    "INT16": "int16_t",
    "UINT32": "uint32_t",
    "INT32": "int32_t",
    "UINT64": "uint64_t",
    "INT64": "int64_t",
    "FLOAT32": "float",
    "FLOAT64": "double",
    "BOOL": "_Bool",
}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a file."""

    name: str
    type: str
    """ggml's name, e.g. `f32`, `q4_K`."""
    shape: tuple[int, ...]
    """As ggml has it: the length of a row first, then the number of rows."""
    nbytes: int
    offset: int
    """Where its data begins in the file, in bytes."""


@dataclass(frozen=True)
class GgufFile:
    """A file's metadata and tensors; of a split model, of this one part."""

    path: Path
    metadata: dict[str, Value]
    tensors: tuple[TensorInfo, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def n_params(self) -> int:
        """Number of parameters."""
        total = 0
        for tensor in self.tensors:
            count = 1
            for length in tensor.shape:
                count *= length
            total += count
        return total

    def _repr_html_(self) -> str:
        shown = {name: value for name, value in self.metadata.items() if not isinstance(value, list)}
        tensors = f"{len(self.tensors)}, {size(self.nbytes)}, {self.n_params:,} parameters"
        return table({**shown, "tensors": tensors}, title=self.path.name)


def read(path: str | os.PathLike[str]) -> GgufFile:
    """Read the head of a file. Raises ModelError, with ggml's own words, when it is no good GGUF file."""
    place = Path(path)
    check(place)
    library = load()
    raw, ffi = library.raw, library.ffi
    context = ffi.new("struct ggml_context **")
    params = ffi.new("struct gguf_init_params *", {"no_alloc": True, "ctx": context})
    with log.collected() as lines:
        file = raw.gguf_init_from_file(os.fsencode(place), params[0])
        words = lines()
    if file == ffi.NULL:
        raise ModelError(f"{place} cannot be read: {words or 'it is damaged, download it again'}")
    try:
        return GgufFile(place, _metadata(library, file), _tensors(library, file, context[0]))
    finally:
        raw.gguf_free(file)
        raw.ggml_free(context[0])


def data_offset(path: Path) -> int:
    """Return where the weights begin, in bytes. Raises ModelError when it is no good GGUF file."""
    library = load()
    raw = library.raw
    with log.collected() as lines:
        file = raw.gguf_init_from_file(os.fsencode(path), {"no_alloc": True, "ctx": library.ffi.NULL})
        words = lines()
    if file == library.ffi.NULL:
        raise ModelError(f"{path} cannot be read: {words or 'it is damaged, download it again'}")
    offset = int(raw.gguf_get_data_offset(file))
    raw.gguf_free(file)
    return offset


def check_whole(file: GgufFile) -> None:
    """Raise ModelError when the file ends before its tensors do: not every pin notices."""
    needed = max((tensor.offset + tensor.nbytes for tensor in file.tensors), default=0)
    size = file.path.stat().st_size
    if size < needed:
        raise ModelError(f"{file.path} is cut short, {needed - size} bytes are missing: download it again")


def check(path: Path) -> None:
    """Give the plain cases a plain sentence; what is inside the file llama.cpp judges."""
    if path.is_dir():
        raise ModelError(f"{path} is a directory: name the .gguf file in it")
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except FileNotFoundError:
        raise ModelError(f"{path} does not exist: check the path") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    if not magic:
        raise ModelError(f"{path} is empty: download it again")
    if magic != _MAGIC:
        raise ModelError(f"{path} is not a GGUF file: convert the model to GGUF first")


def _tensors(library: Library, file: Any, context: Any) -> tuple[TensorInfo, ...]:
    raw, ffi = library.raw, library.ffi
    start = raw.gguf_get_data_offset(file)
    found = []
    tensor = raw.ggml_get_first_tensor(context)
    for i in range(raw.gguf_get_n_tensors(file)):
        n = max(raw.ggml_n_dims(tensor), 1)
        found.append(
            TensorInfo(
                name=_text(ffi, raw.gguf_get_tensor_name(file, i)),
                type=_text(ffi, raw.ggml_type_name(raw.gguf_get_tensor_type(file, i))),
                shape=tuple(int(tensor.ne[j]) for j in range(n)),
                nbytes=int(raw.gguf_get_tensor_size(file, i)),
                offset=int(start + raw.gguf_get_tensor_offset(file, i)),
            )
        )
        tensor = raw.ggml_get_next_tensor(context, tensor)
    return tuple(found)


def _metadata(library: Library, file: Any) -> dict[str, Value]:
    raw, ffi = library.raw, library.ffi
    names = {getattr(raw, f"GGUF_TYPE_{name}"): name for name in [*_SCALARS, "ARRAY"]}
    found: dict[str, Value] = {}
    for i in range(raw.gguf_get_n_kv(file)):
        name = names[raw.gguf_get_kv_type(file, i)]
        key = _text(ffi, raw.gguf_get_key(file, i))
        if name == "ARRAY":
            found[key] = _array(library, file, i, names[raw.gguf_get_arr_type(file, i)])
        else:
            get: Callable[[Any, int], Any] = getattr(raw, f"gguf_get_val_{_SCALARS[name]}")
            value = get(file, i)
            found[key] = _text(ffi, value) if name == "STRING" else value
    return found


def _array(library: Library, file: Any, i: int, name: str) -> Any:
    raw, ffi = library.raw, library.ffi
    n = raw.gguf_get_arr_n(file, i)
    if name == "STRING":
        return [_text(ffi, raw.gguf_get_arr_str(file, i, j)) for j in range(n)]
    data = ffi.cast(f"{_ELEMENTS[name]} *", raw.gguf_get_arr_data(file, i))
    return ffi.unpack(data, n) if n else []


def _text(ffi: Any, value: Any) -> str:
    text: str = ffi.string(value).decode("utf-8", "replace")
    return text
