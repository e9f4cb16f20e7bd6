"""Model files."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import cancelling, gguf_file, rpc
from .adapters import Lora
from .context import Context
from .device import choose, handles
from .errors import ModelError, UsageError
from .markup import size, table
from .native import log
from .native.handle import Handle
from .native.loader import Library, load
from .vocab import Vocab

_WITH_POSITIONS = ("bert", "gpt2", "mpt", "starcoder")
_ALL_LAYERS = 1 << 20  # more than any model has; older pins do not know -1


class Model(Handle):
    """A GGUF model in memory.

    `path` is the file (of a split model: the first part). `gpu_layers` is the number of
    layers to put on devices, -1 for all. `devices` names those, in order (`pyllama.devices()` lists
    them); None takes every one that is like a GPU, `["CPU"]` or `[]` none. `tensor_split` says which
    share each of them gets, as numbers in any unit; `split_mode` is `none`, `layer`, `row` or what
    else the pin has, and `main_gpu` the number of the device that `none` takes.

    `mmap` maps the file instead of reading it; None leaves the choice to llama.cpp. `progress` is
    called with a fraction 0…1 and stops the loading by returning False. Further keywords set
    fields of `llama_model_params` by name.

    Raises ModelError, with llama.cpp's own last words, when the file cannot be loaded, UsageError
    for devices that cannot be used like that, RpcError when the server of one cannot be reached.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        gpu_layers: int = -1,
        devices: Sequence[str] | None = None,
        tensor_split: Sequence[float] | None = None,
        split_mode: str | int | None = None,
        mmap: bool | None = None,
        vocab_only: bool = False,
        progress: Callable[[float], bool | None] | None = None,
        **fields: Any,
    ) -> None:
        library = load()
        self._library = library
        self.path = Path(path)
        gguf_file.check(self.path)
        log.sync_level()
        params = library.raw.llama_model_default_params()
        params.n_gpu_layers = _ALL_LAYERS if gpu_layers < 0 else min(gpu_layers, _ALL_LAYERS)
        if mmap is not None:
            _set_mmap(library.raw, params, mmap)
        params.vocab_only = vocab_only
        chosen = None if devices is None else choose(devices)
        # What C reads has to live until the model is loaded.
        kept = _place(library, params, chosen, tensor_split, split_mode)
        self.rpc_endpoints = rpc.endpoints_of(handles() if chosen is None else chosen)
        rpc.require_reachable(self.rpc_endpoints)
        set_fields(library.ffi, params, fields)
        if chosen == [] and params.split_mode == library.raw.LLAMA_SPLIT_MODE_NONE:
            params.main_gpu = -1  # before 2026-10 the first one of none is an error
        self.simulated = bool(getattr(params, "no_alloc", False))
        """Whether it has no weights and is only there to tell what it would take."""
        if self.simulated:  # llama.cpp ends the process over both
            _set_mmap(library.raw, params, False)
        call = _Progress(progress) if progress is not None else None
        if call is not None:
            handle = library.ffi.new_handle(call)
            params.progress_callback = library.raw.pyllama_on_progress
            params.progress_callback_user_data = handle
            _define_progress(library.ffi)
        with cancelling.making(), log.collected() as lines:
            ptr = library.raw.llama_model_load_from_file(os.fsencode(self.path), params)
            words = lines()
        del kept
        if call is not None and call.error is not None:
            if ptr != library.ffi.NULL:
                library.raw.llama_model_free(ptr)
            raise call.error
        lost = rpc.failure(self.rpc_endpoints)
        if lost and ptr != library.ffi.NULL:  # llama.cpp did not notice that nothing arrived
            library.raw.llama_model_free(ptr)
        if lost or ptr == library.ffi.NULL:
            raise ModelError(f"{self.path} cannot be loaded: {lost or words or 'the loading was stopped'}")
        super().__init__(ptr, library.raw.llama_model_free)
        rpc.remember(self, self.rpc_endpoints)
        self.vocab_only = vocab_only
        self._pieces: dict[tuple[int, bool], bytes] = {}
        log.raise_pending()

    @property
    def library(self) -> Library:
        """The functions of the loaded libraries."""
        return self._library

    @property
    def vocab(self) -> Vocab:
        """The vocabulary; it keeps the model alive."""
        with self.guard:
            return Vocab(self, self._pieces)

    @property
    def description(self) -> str:
        """Architecture, size and quantisation in llama.cpp's words."""
        buffer = self._library.ffi.new("char[]", 256)
        with self.guard:
            self._library.raw.llama_model_desc(self.ptr, buffer, 256)
        text: str = self._library.ffi.string(buffer).decode("utf-8", "replace")
        return text

    @property
    def architecture(self) -> str:
        """Upstream's name of the architecture, e.g. `llama`; it begins the names of most metadata."""
        buffer = self._library.ffi.new("char[]", 256)
        with self.guard:
            self._library.raw.llama_model_meta_val_str(self.ptr, b"general.architecture", buffer, 256)
        text: str = self._library.ffi.string(buffer).decode("utf-8", "replace")
        return text

    @property
    def n_ctx_train(self) -> int:
        """The context size, in tokens, that the model was trained for."""
        with self.guard:
            return int(self._library.raw.llama_model_n_ctx_train(self.ptr))

    @functools.cached_property
    def n_positions(self) -> int:
        """Positions that the model has a table for, 0 where it has none: past its end llama.cpp aborts."""
        if self.architecture not in _WITH_POSITIONS:
            return 0
        names = {tensor.name for tensor in gguf_file.read(self.path).tensors}
        return self.n_ctx_train if "position_embd.weight" in names else 0

    @functools.cached_property
    def ends(self) -> frozenset[int]:
        """The tokens that end a generation (end of text, of turn, …)."""
        is_eog = self._library.raw.llama_vocab_is_eog
        with self.guard:
            vocab = self.vocab
            return frozenset(token for token in range(len(vocab)) if is_eog(vocab.ptr, token))

    @property
    def n_params(self) -> int:
        """Number of parameters."""
        with self.guard:
            return int(self._library.raw.llama_model_n_params(self.ptr))

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        with self.guard:
            return int(self._library.raw.llama_model_size(self.ptr))

    @property
    def metadata(self) -> dict[str, str]:
        """The file's key-value pairs, as text; arrays are shortened by llama.cpp."""
        raw, ffi = self._library.raw, self._library.ffi
        found = {}
        with self.guard:
            model = self.ptr
            for i in range(raw.llama_model_meta_count(model)):
                key = _meta(ffi, raw.llama_model_meta_key_by_index, model, i)
                found[key] = _meta(ffi, raw.llama_model_meta_val_str_by_index, model, i)
        return found

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Return the tokens of `text`; see `Vocab.tokenize`."""
        return self.vocab.tokenize(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the text of `tokens`; see `Vocab.detokenize`."""
        return self.vocab.detokenize(tokens, special=special)

    def context(
        self,
        *,
        n_ctx: int = 0,
        n_batch: int = 2048,
        n_ubatch: int = 512,
        n_seq_max: int = 1,
        threads: int = 0,
        **fields: Any,
    ) -> Context:
        """Make a context; see `Context` for the options and errors."""
        return Context(
            self,
            n_ctx=n_ctx,
            n_batch=n_batch,
            n_ubatch=n_ubatch,
            n_seq_max=n_seq_max,
            threads=threads,
            **fields,
        )

    def lora(self, path: str | os.PathLike[str]) -> Lora:
        """Load a LoRA adapter for this model; see `Lora`."""
        return Lora(self, path)

    def _repr_html_(self) -> str:
        if self.closed:
            return table({"model": f"{self.path.name} (closed)"})
        return table(
            {
                "model": self.path.name,
                "description": self.description,
                "parameters": f"{self.n_params:,}",
                "size": size(self.size),
                "trained for": f"{self.n_ctx_train} tokens",
                "vocabulary": f"{len(self.vocab)} tokens",
            }
        )

    def __repr__(self) -> str:
        return f"<Model {self.path.name}{' (closed)' if self.closed else ': ' + self.description}>"


def set_fields(ffi: Any, params: Any, fields: dict[str, Any]) -> None:
    """Set fields of a C struct by name; TypeError for one that this pin does not have.

    Raises UsageError for a number that the field cannot hold.
    """
    known = dict(ffi.typeof(params).fields)
    for name, value in fields.items():
        if name not in known:
            struct = ffi.typeof(params).cname.removeprefix("struct ")
            raise TypeError(f"{struct} has no field {name!r}: it has {', '.join(known)}")
        try:
            setattr(params, name, value)
        except OverflowError as error:
            raise UsageError(f"{name}={value} is out of range: {error}") from None


def _place(
    library: Library,
    params: Any,
    devices: Sequence[Any] | None,
    tensor_split: Sequence[float] | None,
    split_mode: str | int | None,
) -> list[Any]:
    """Set where layers go; return the arrays that the struct points to.

    Raises UsageError for shares or a mode that cannot be.
    """
    ffi, raw = library.ffi, library.raw
    kept = []
    if devices is not None:
        array = ffi.new("ggml_backend_dev_t[]", [*devices, ffi.NULL])
        params.devices = array
        kept.append(array)
    if tensor_split is not None:
        most = int(raw.llama_max_devices())
        if (
            len(tensor_split) > most
            or not all(share >= 0 for share in tensor_split)
            or not sum(tensor_split) > 0
        ):
            raise UsageError(
                f"tensor_split={list(tensor_split)} is no split: give at most {most} shares that are not "
                "negative, one of them above 0"
            )
        shares = ffi.new("float[]", [*tensor_split, *[0.0] * (most - len(tensor_split))])
        params.tensor_split = shares
        kept.append(shares)
    if split_mode is not None:
        params.split_mode = _split_mode(raw, split_mode)
    return kept


def _split_mode(raw: Any, mode: str | int) -> int:
    prefix = "LLAMA_SPLIT_MODE_"
    numbers = {name: int(getattr(raw, name)) for name in dir(raw) if name.startswith(prefix)}
    modes = {
        name.removeprefix(prefix).lower(): numbers[name] for name in sorted(numbers, key=numbers.__getitem__)
    }
    found = modes.get(mode.lower()) if isinstance(mode, str) else mode
    if found is None or found not in modes.values():
        raise UsageError(f"split_mode={mode!r} is not one of {', '.join(modes)}")
    return found


def _set_mmap(raw: Any, params: Any, mmap: bool) -> None:
    if hasattr(params, "load_mode"):  # 2026-10 has one field for all ways of loading
        params.load_mode = raw.LLAMA_LOAD_MODE_MMAP if mmap else raw.LLAMA_LOAD_MODE_NONE
    else:
        params.use_mmap = mmap


def _meta(ffi: Any, get: Callable[..., int], model: Any, i: int) -> str:
    size = get(model, i, ffi.NULL, 0) + 1
    buffer = ffi.new("char[]", max(size, 1))
    get(model, i, buffer, size)
    text: str = ffi.string(buffer).decode("utf-8", "replace")
    return text


class _Progress:
    """A progress callback and the exception that it raised, if any."""

    def __init__(self, call: Callable[[float], bool | None]) -> None:
        self.call = call
        self.error: BaseException | None = None


def _define_progress(ffi: Any) -> None:
    def on_progress(fraction: float, user_data: Any) -> bool:
        progress: _Progress = ffi.from_handle(user_data)
        try:
            return progress.call(fraction) is not False
        except BaseException as error:
            progress.error = error
            return False

    ffi.def_extern(name="pyllama_on_progress")(on_progress)
