"""A sequence to a file or to bytes, and back: in another process, or another context of the same model."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import mmap
import os
import tempfile
from collections.abc import Iterator
from collections.abc import Sequence as Tokens
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import gguf_file, prefix, state_format
from .errors import ContextError, StateError, UsageError
from .native import log
from .native.installed import build_info
from .prefix import Kept

if TYPE_CHECKING:
    from .context import Context
    from .model import Model
    from .sequence import Sequence

_SAMPLES, _SAMPLE = 16, 4096  # places of a model file's weights that are looked at, and bytes of each


def save(sequence: Sequence, path: str | os.PathLike[str], tokens: Tokens[int] | None) -> None:
    """Write what a sequence holds to a file; see `Sequence.save`."""
    place = Path(path)
    with sequence.context.lock:
        header = _header(sequence, tokens)
        try:
            with _written(place, state_format.total(header)) as data:
                _fill(sequence, header, data)
        except OSError as error:
            raise StateError(f"{place} cannot be written: {error.strerror or error}") from error


def dumps(sequence: Sequence, tokens: Tokens[int] | None) -> bytearray:
    """Return the same as bytes; see `Sequence.dumps`."""
    with sequence.context.lock:
        header = _header(sequence, tokens)
        data = bytearray(state_format.total(header))
        with memoryview(data) as view:
            _fill(sequence, header, view)
    return data


def load(sequence: Sequence, path: str | os.PathLike[str]) -> tuple[int, ...]:
    """Put what a file holds in place of what a sequence holds; see `Sequence.load`."""
    place = Path(path)
    try:
        with place.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise StateError(f"{place} is empty: save it again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
                return _restore(sequence, view, str(place))
    except OSError as error:
        raise StateError(f"{place} cannot be read: {error.strerror or error}") from error


def loads(sequence: Sequence, data: bytes | bytearray | memoryview) -> tuple[int, ...]:
    """The same from bytes; see `Sequence.loads`."""
    with memoryview(data) as view, view.cast("B") as octets:
        return _restore(sequence, octets, "the saved state")


def identity(context: Context) -> dict[str, str]:
    """Return what has to be the same where a state is restored."""
    build = build_info()
    model, raw, ffi = context.model, context.library.raw, context.library.ffi
    names = [ffi.string(raw.ggml_type_name(kind)).decode() for kind in context.cache_types]
    found = {
        "model": fingerprint(model),
        "pin": build.pin,
        "patches": build.key,
        "type_k": names[0],
        "type_v": names[1],
        "layers": str(context.n_layers),
        "streams": str(1 if context.shares_cells else context.n_seq_max),
        "adapters": ", ".join(f"{lora.path.name}×{scale:g}" for lora, scale in context.loras),
        "control_vector": context.control_hash or "none",
        **context.computed_with,
    }
    if hasattr(raw, "llama_get_n_expert_used") and (used := context.n_experts):
        found["n_experts"] = str(used)
    if raw.llama_model_n_swa(model.ptr) > 0:
        found["swa_full"] = str(context.swa_full)
    return found


def fingerprint(model: Model) -> str:
    """Return a hash of a model's metadata, its list of tensors and a sample of its weights; 64 digits.

    Of a split model, of the first part. Raises ModelError when the file is gone.
    """
    gguf_file.check(model.path)
    about = model.path.stat()
    return _fingerprint(model.path, about.st_size, about.st_mtime_ns)


@functools.lru_cache(maxsize=32)
def _fingerprint(path: Path, size: int, changed: int) -> str:
    start = min(gguf_file.data_offset(path), size)
    found = hashlib.sha256(size.to_bytes(8, "little"))
    with path.open("rb") as file:
        found.update(file.read(start))
        for i in range(_SAMPLES):
            file.seek(start + max(size - start - _SAMPLE, 0) * i // (_SAMPLES - 1))
            found.update(file.read(_SAMPLE))
    return found.hexdigest()


def _header(sequence: Sequence, tokens: Tokens[int] | None) -> state_format.Header:
    context, length = sequence.context, sequence.length
    if not length:
        raise ContextError(f"sequence {sequence.id} is empty: there is nothing to save")
    if tokens is None:
        tokens = prefix.held(context, sequence.id) or ()
    elif len(tokens) != length:
        raise UsageError(f"{len(tokens)} tokens were given, sequence {sequence.id} holds {length}")
    highest = len(context.model.vocab)
    if not all(0 <= token < highest for token in tokens):
        raise UsageError(f"a token is not in a vocabulary of {highest}: give what the sequence was fed")
    nbytes = int(context.library.raw.llama_state_seq_get_size(context.ptr, sequence.id))
    return state_format.Header(identity(context), length, tuple(tokens), nbytes)


def _fill(sequence: Sequence, header: state_format.Header, data: memoryview) -> None:
    """Write a whole file into memory that is as long."""
    context, start = sequence.context, state_format.head(header)
    raw, ffi = context.library.raw, context.library.ffi
    data[: len(start)] = start
    with data[len(start) : len(start) + header.nbytes] as place:
        buffer = ffi.from_buffer("uint8_t[]", place)
        with log.collected() as lines:
            done = raw.llama_state_seq_get_data(context.ptr, buffer, header.nbytes, sequence.id)
            words = lines()
        ffi.release(buffer)
    if done != header.nbytes:
        raise StateError(f"sequence {sequence.id} cannot be saved: {words or 'llama.cpp gave no reason'}")
    state_format.seal(data)


def _restore(sequence: Sequence, data: memoryview, what: str) -> tuple[int, ...]:
    context = sequence.context
    header, state = state_format.opened(data, what)
    with state, context.lock:
        differs = state_format.differences(header.identity, identity(context))
        if differs:
            raise StateError(f"{what} does not fit this context: {differs}")
        size = context.n_ctx_seq
        if header.length > size:
            raise StateError(
                f"{what} holds {header.length} tokens, a sequence here only {size}: use a larger n_ctx"
            )
        _put(sequence, header, state, what)
        if sequence.id == 0:
            prefix.forget(context)
            context.kept = Kept(list(header.tokens), context.stamp)
    return header.tokens


def _put(sequence: Sequence, header: state_format.Header, state: memoryview, what: str) -> None:
    """Give llama.cpp the state; when it does not take it, the sequence gets back what it held."""
    context = sequence.context
    raw, ffi = context.library.raw, context.library.ffi
    known = prefix.held(context, sequence.id)
    before = _backup(sequence) if sequence.length else None
    buffer = ffi.from_buffer("uint8_t[]", state)
    context.edited()
    with log.collected() as lines:
        done = raw.llama_state_seq_set_data(context.ptr, buffer, len(state), sequence.id)
        words = lines()
    ffi.release(buffer)
    if done == len(state) and sequence.length == header.length:
        if isinstance(before, int):
            raw.llama_memory_checkpoint_delete(context.ptr, before)
        return
    raw.llama_memory_seq_rm(raw.llama_get_memory(context.ptr), sequence.id, -1, -1)
    if isinstance(before, int):
        raw.llama_memory_checkpoint_restore(context.ptr, before, sequence.id)
        raw.llama_memory_checkpoint_delete(context.ptr, before)
    elif before is not None:
        raw.llama_state_seq_set_data(
            context.ptr, ffi.from_buffer("uint8_t[]", before), len(before), sequence.id
        )
    prefix.unchanged(context, known)
    raise StateError(f"{what} cannot be restored: {words or 'there is no room for it'}")


def _backup(sequence: Sequence) -> int | bytearray:
    """Return llama.cpp's id of a checkpoint, or a state where a build has none."""
    context = sequence.context
    raw, ffi = context.library.raw, context.library.ffi
    if hasattr(raw, "llama_memory_checkpoint_save"):
        place = raw.LLAMA_CHECKPOINT_DEVICE_OR_HOST
        found = int(raw.llama_memory_checkpoint_save(context.ptr, sequence.id, 0, place))
        if not found:
            raise ContextError(
                f"there is no room to keep what sequence {sequence.id} holds meanwhile: clear it first"
            )
        return found
    data = bytearray(raw.llama_state_seq_get_size(context.ptr, sequence.id))
    raw.llama_state_seq_get_data(context.ptr, ffi.from_buffer("uint8_t[]", data), len(data), sequence.id)
    return data


@contextmanager
def _written(path: Path, size: int) -> Iterator[memoryview]:
    """Yield the memory of a new file, which takes the place of `path` once all of it is on the disk."""
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(number, "r+b") as file:
            if hasattr(os, "posix_fallocate"):  # a full disk is told now, not by a signal later
                os.posix_fallocate(file.fileno(), 0, size)
                with mmap.mmap(file.fileno(), size) as mapped:
                    with memoryview(mapped) as view:
                        yield view
                    mapped.flush()
            else:
                data = bytearray(size)
                with memoryview(data) as view:
                    yield view
                file.write(data)
                file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Let the new name last, too; where a system cannot, it does so itself in time."""
    with contextlib.suppress(OSError):
        number: Any = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
