"""Open a feature, work on it, write it back: on throw-away trees, with nothing lost on the way."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from throwaway import MAIN, PIN, UPSTREAM, World, change, changed, diff, make_world

from pyllama.builder.edit import opening, refresh, replacing, scaffold, session
from pyllama.builder.edit.session import Session
from pyllama.builder.git import environment
from pyllama.builder.paths import Paths
from pyllama.builder.pins import Lock, Pin
from pyllama.builder.progress import Reporter
from pyllama.builder.project import Project, serving
from pyllama.builder.stack import series
from pyllama.errors import PatchError, UsageError

QUIET = Reporter(quiet=True)
NEW = "2026-11"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Three features on one file; the middle one brings a file."""
    made = make_world(tmp_path)
    made.feature("low", {"a.patch": change(5, "low")})
    low = changed(5, "low")
    made.feature("mid", {"a.patch": change(10, "mid", low)}, {"src/mid.cpp": "int mid;\n"}, requires=["low"])
    made.feature("top", {"a.patch": change(20, "top", changed(10, "mid", low))})
    return made


def newer(world: World, **texts: str | None) -> str:
    """Store another upstream tree; keys are file names without folder and suffix."""
    folder = world.root / "newer"
    shutil.rmtree(folder, ignore_errors=True)
    names = {"main": "src/main.cpp", "other": "src/other.cpp", "moved": "src/moved.cpp"}
    files: dict[str, str | None] = {**UPSTREAM, **{names[key]: text for key, text in texts.items()}}
    for name, text in files.items():
        if text is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    return world.store.add(folder)


def opened(world: World, tree: str | None = None, like: str | None = None) -> Project:
    pins = [Pin(PIN, "1" * 40, world.tree, "2026-10-01", "a test")]
    if tree is not None:
        pins.append(Pin(NEW, "2" * 40, tree, "2026-11-01", "a test", like=like))
    lock = Lock(PIN, tuple(pins))
    return Project(world.paths, lock, serving(series.load(world.patches), lock))


def edit(
    world: World, name: str = "mid", pin: str = PIN, source: str | None = None, **more: str | None
) -> Session:
    return opening.begin(opened(world, **more), name, pin, source, QUIET)


def write_back(world: World, made: Session, **more: str | None) -> refresh.Outcome:
    return refresh.refresh(opened(world, **more), made.folder, QUIET)


def git(folder: Path, *args: str) -> str:
    who = {f"GIT_{role}_{key}": "x@x" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    words = {**environment(), **who}
    return subprocess.run(
        ["git", *args], cwd=folder, env=words, capture_output=True, text=True, check=True
    ).stdout


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def put(made: Session, line: int, text: str) -> None:
    path = made.tree / "src/main.cpp"
    path.write_text(changed(line, text, path.read_text()))


def test_a_work_tree_with_a_commit_per_feature(world: World) -> None:
    made = edit(world)
    assert git(made.tree, "log", "--format=%s").splitlines() == [
        "About mid",
        "About low",
        f"llama.cpp at pin {PIN}",
    ]
    assert git(made.tree, "status", "--short") == ""
    assert git(made.tree, "branch", "--show-current").strip() == f"pyllama/{PIN}/mid"
    assert (made.tree / "src/mid.cpp").read_text() == "int mid;\n"
    head = git(made.tree, "rev-parse", "HEAD")
    session.close(made.folder)
    assert git(edit(world).tree, "rev-parse", "HEAD") == head, "the same commits every time"


def test_it_survives_the_loss_of_the_cache(world: World) -> None:
    made = edit(world)
    shutil.rmtree(world.root / "cache")
    assert "About low" in git(made.tree, "log", "-p")
    assert git(made.tree, "fsck", "--full").strip() == ""


def test_no_edit_changes_no_byte(world: World) -> None:
    before = contents(world.patches)
    for name in ("low", "mid", "top"):
        made = edit(world, name)
        done = write_back(world, made)
        assert (done.written, done.removed) == ((), ())
        session.close(made.folder)
    assert contents(world.patches) == before


def test_a_hook_on_other_ground_is_written_anew(world: World) -> None:
    """Git names the blobs that it compares; those of a hook change with the features below it."""
    made = edit(world, "top")
    put(made, 21, "more")
    write_back(world, made)
    session.close(made.folder)
    hook = world.patches / "top/hooks/a.patch"
    first = hook.read_bytes()
    assert b"\nindex " in first
    below = edit(world, "low")
    put(below, 1, "something else")
    write_back(world, below)
    session.close(below.folder)
    made = edit(world, "top")
    assert write_back(world, made).written == ("hooks/a.patch",)
    second = hook.read_bytes()
    differ = [line for line in second.splitlines() if line not in first.splitlines()]
    assert len(differ) == 1 and differ[0].startswith(b"index ")
    assert write_back(world, made).written == ()


@pytest.mark.parametrize("committed", [False, True])
def test_edits_become_hook_and_files(world: World, committed: bool) -> None:
    made = edit(world)
    put(made, 12, "more")
    (made.tree / "src/extra.cpp").write_text("int extra;\n")
    (made.tree / "src/mid.cpp").write_text("int middle;\n")
    if committed:
        git(made.tree, "add", "-A")
        git(made.tree, "commit", "-qm", "work")
    done = write_back(world, made)
    assert set(done.written) == {"hooks/a.patch", "files/src/extra.cpp", "files/src/mid.cpp"}
    tree = world.apply(["mid"]).folder
    assert (tree / "src/main.cpp").read_text() == changed(12, "more", changed(10, "mid", changed(5, "low")))
    assert (tree / "src/mid.cpp").read_text() == "int middle;\n"
    assert "index " in (world.patches / "mid/hooks/a.patch").read_text()
    again = write_back(world, made)
    assert (again.written, again.removed) == ((), ())
    assert world.apply().tree, "the feature above still applies"


def test_a_file_that_is_gone_and_one_that_upstream_has(world: World) -> None:
    made = edit(world)
    (made.tree / "src/mid.cpp").unlink()
    (made.tree / "src/other.cpp").unlink()
    done = write_back(world, made)
    assert done.removed == ("files/src/mid.cpp",)
    assert not (world.patches / "mid/files/src").exists()
    tree = world.apply(["mid"]).folder
    assert not (tree / "src/other.cpp").exists() and not (tree / "src/mid.cpp").exists()


def test_words_before_a_diff_stay(world: World) -> None:
    path = world.patches / "mid/hooks/a.patch"
    path.write_text("Why this is.\n\n" + path.read_text())
    made = edit(world)
    put(made, 12, "more")
    write_back(world, made)
    assert path.read_text().startswith("Why this is.\n\ndiff --git")


def test_several_hooks_keep_their_files(world: World) -> None:
    folder = world.patches / "mid"
    other = UPSTREAM["src/other.cpp"]
    (folder / "hooks/b.patch").write_text(diff("src/other.cpp", other, other.replace("c", "C")))
    toml = folder / "feature.toml"
    toml.write_text(toml.read_text().replace('["hooks/a.patch"]', '["hooks/a.patch", "hooks/b.patch"] # two'))
    before = (folder / "hooks/a.patch").read_bytes()
    made = edit(world)
    text = (made.tree / "src/other.cpp").read_text()
    (made.tree / "src/other.cpp").write_text(text.replace("C", "CC"))
    assert write_back(world, made).written == ("hooks/b.patch",)
    assert (folder / "hooks/a.patch").read_bytes() == before
    assert "# two" in toml.read_text()


def two_pins(world: World) -> str:
    """Let the one hook of `mid` serve a second pin, where line 12 is another one."""
    tree = newer(world, main=changed(14, "upstream's own"))
    for name in ("low", "mid", "top"):
        toml = world.patches / name / "feature.toml"
        toml.write_text(toml.read_text() + f'[pins."{NEW}"]\nhooks = ["hooks/a.patch"] # shared\n')
    return tree


def test_a_hook_of_two_pins_is_shared_as_long_as_it_fits(world: World) -> None:
    tree = two_pins(world)
    made = edit(world, tree=tree)
    put(made, 9, "near the first change")
    assert write_back(world, made, tree=tree).written == ("hooks/a.patch",)
    assert [path.name for path in (world.patches / "mid/hooks").iterdir()] == ["a.patch"]


def test_a_hook_that_no_longer_fits_the_other_pin_is_split(world: World) -> None:
    tree = two_pins(world)
    old = (world.patches / "mid/hooks/a.patch").read_bytes()
    made = edit(world, tree=tree)
    put(made, 13, "beside what upstream has changed there")
    done = write_back(world, made, tree=tree)
    assert set(done.written) == {f"hooks/{PIN}.patch", "feature.toml"}
    assert (world.patches / "mid/hooks/a.patch").read_bytes() == old
    feature = series.load_feature(world.patches / "mid")
    assert feature.at(PIN).hooks == (f"hooks/{PIN}.patch",) and feature.at(NEW).hooks == ("hooks/a.patch",)
    assert "# shared" in (world.patches / "mid/feature.toml").read_text()


def test_carried_to_another_pin(world: World) -> None:
    tree = newer(world, main="new first line\n" + MAIN)
    with pytest.raises(UsageError, match="say --from which pin"):
        edit(world, "low", NEW, tree=tree)
    made = edit(world, "low", NEW, PIN, tree=tree)
    done = write_back(world, made, tree=tree)
    assert done.written == ("feature.toml",), "it fits as it is, some lines away"
    assert series.load_feature(world.patches / "low").at(NEW).hooks == ("hooks/a.patch",)


def conflict(world: World) -> tuple[str, Session]:
    tree = newer(world, main=changed(5, "upstream's own"))
    with pytest.raises(PatchError, match=r"does not fit pin 2026-11 .*main.cpp has conflicts.*--continue"):
        edit(world, "low", NEW, PIN, tree=tree)
    return tree, session.load(session.find(world.paths))


def test_a_conflict_is_resolved_and_continued(world: World) -> None:
    tree, made = conflict(world)
    assert made.steps[0].files == ("src/main.cpp",) and made.steps[0].state == "conflict"
    text = (made.tree / "src/main.cpp").read_text()
    assert all(words in text for words in ("<<<<<<< pin 2026-11", "||||||| pin 2026-10", ">>>>>>> low"))
    with pytest.raises(PatchError, match=r"src/main.cpp, line 5, still has a conflict marker"):
        opening.proceed(opened(world, tree), made.folder, False, QUIET)
    with pytest.raises(PatchError, match="has not been resolved"):
        write_back(world, made, tree=tree)
    with pytest.raises(UsageError, match="is open at pin 2026-11 already"):
        edit(world, "low", NEW, PIN, tree=tree)
    (made.tree / "src/main.cpp").write_text(changed(5, "both"))
    made = opening.proceed(opened(world, tree), made.folder, False, QUIET)
    assert made.ready and git(made.tree, "status", "--short") == ""
    assert set(write_back(world, made, tree=tree).written) == {f"hooks/{NEW}.patch", "feature.toml"}
    with pytest.raises(UsageError, match="nothing stopped"):
        opening.proceed(opened(world, tree), made.folder, False, QUIET)


def test_a_conflict_is_skipped(world: World) -> None:
    tree, made = conflict(world)
    made = opening.proceed(opened(world, tree), made.folder, True, QUIET)
    assert made.steps[0].state == "skipped"
    assert (made.tree / "src/main.cpp").read_text() == changed(5, "upstream's own")


def test_a_conflict_is_given_up(world: World) -> None:
    before = contents(world.patches)
    _, made = conflict(world)
    session.close(made.folder)
    assert not made.folder.exists() and contents(world.patches) == before


def test_a_3way_merge_where_the_context_changed(world: World) -> None:
    tree = newer(world, main=changed(8, "upstream's own"))
    made = edit(world, "low", NEW, PIN, tree=tree)
    assert made.steps[0].state == "merged"
    assert (made.tree / "src/main.cpp").read_text() == changed(5, "low", changed(8, "upstream's own"))
    assert set(write_back(world, made, tree=tree).written) == {f"hooks/{NEW}.patch", "feature.toml"}


def test_a_file_that_upstream_renamed_and_one_that_it_removed(world: World) -> None:
    tree = newer(world, main=None, moved=changed(29, "upstream's own"))
    made = edit(world, "low", NEW, PIN, tree=tree)
    assert (made.tree / "src/moved.cpp").read_text() == changed(5, "low", changed(29, "upstream's own"))
    session.close(made.folder)
    tree = newer(world, main=None)
    with pytest.raises(PatchError, match=r"src/main.cpp is gone: make the change where its code is now"):
        edit(world, "low", NEW, PIN, tree=tree)
    made = session.load(session.find(world.paths))
    (made.tree / "src/other.cpp").write_text("low\n")
    made = opening.proceed(opened(world, tree), made.folder, False, QUIET)
    assert set(write_back(world, made, tree=tree).written) == {f"hooks/{NEW}.patch", "feature.toml"}


def test_upstream_has_a_file_that_we_bring(world: World) -> None:
    tree = newer(world)
    folder = world.root / "newer/src"
    (folder / "mid.cpp").write_text("upstream's\n")
    tree = world.store.add(world.root / "newer")
    toml = world.patches / "low/feature.toml"
    toml.write_text(toml.read_text() + f'[pins."{NEW}"]\nhooks = ["hooks/a.patch"]\n')
    with pytest.raises(PatchError, match=r"brings src/mid\.cpp, which upstream has"):
        edit(world, "mid", NEW, PIN, tree=tree)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("link", "is a link or submodule"),
        ("mode", "mode of src/main[.]cpp changed"),
        ("binary", "binary"),
        ("marker", "has a conflict marker"),
        ("case", "has src/main[.]cpp already"),
    ],
)
def test_what_a_feature_cannot_carry_is_refused(world: World, what: str, words: str) -> None:
    made = edit(world)
    before = contents(world.patches)
    main = made.tree / "src/main.cpp"
    if what == "link":
        os.symlink("/etc/passwd", made.tree / "src/link.cpp")
    elif what == "mode":
        main.chmod(0o755)
    elif what == "binary":
        main.write_bytes(b"\0\1\2" * 50)
    elif what == "marker":
        (made.tree / "src/mid.cpp").write_text("<<<<<<< ours\n")
    else:
        (made.tree / "src/Main.cpp").write_text("x\n")
    with pytest.raises(PatchError, match=words):
        write_back(world, made)
    assert contents(world.patches) == before
    assert made.tree.exists()


def test_features_below_that_changed_are_noticed(world: World) -> None:
    made = edit(world)
    (world.patches / "low/hooks/a.patch").write_text(change(5, "lower"))
    (world.patches / "mid/hooks/a.patch").write_text(change(10, "mid", changed(5, "lower")))
    with pytest.raises(PatchError, match="features below mid changed"):
        write_back(world, made)
    assert made.tree.exists()


def test_what_upstream_ignores_is_left_out(world: World) -> None:
    made = edit(world)
    (made.tree / ".git/info/exclude").write_text("*.o\n")
    (made.tree / "src/main.o").write_bytes(b"\0")
    assert write_back(world, made).written == ()


def test_damaged_sessions(world: World) -> None:
    made = edit(world)
    state = made.folder / "state.json"
    held = state.read_text()
    for text in ("", "[]", "{}", held.replace('"schema": 1', '"schema": 9'), held.replace('"steps"', '"x"')):
        state.write_text(text)
        with pytest.raises(PatchError, match="state of the session mid-2026-10 can't be read"):
            session.load(made.folder)
    state.write_text(held)
    shutil.rmtree(made.tree)
    with pytest.raises(PatchError, match="work tree of the session mid-2026-10 is gone"):
        session.load(made.folder)
    session.close(session.find(world.paths, "mid"))
    with pytest.raises(UsageError, match="no session is open"):
        session.find(world.paths)


def test_which_session_is_meant(world: World) -> None:
    edit(world, "low")
    edit(world, "mid")
    assert session.find(world.paths, "low").name == f"low-{PIN}"
    with pytest.raises(UsageError, match="several sessions are open"):
        session.find(world.paths)
    with pytest.raises(UsageError, match="no session of top is open"):
        session.find(world.paths, "top")


def test_two_at_once(world: World) -> None:
    with (
        session.locked(world.paths, "mid"),
        pytest.raises(PatchError, match="another process is working on mid"),
    ):
        edit(world)


def test_a_new_feature(world: World, tmp_path: Path) -> None:
    place = scaffold.new(world.patches, "fresh", world.listed(), "A fresh one", ["low"], PIN)
    feature = series.load(world.patches)["fresh"]
    assert (feature.title, feature.requires, feature.at(PIN).hooks) == ("A fresh one", ("low",), ())
    assert world.listed()[-1] == "fresh" and (place / "README.md").is_file()
    made = edit(world, "fresh")
    put(made, 25, "fresh")
    (made.tree / "src/fresh.cpp").write_text("int fresh;\n")
    done = write_back(world, made)
    assert set(done.written) == {f"hooks/{PIN}.patch", "files/src/fresh.cpp", "feature.toml"}
    assert "# Text that must be in files" in (place / "feature.toml").read_text()
    assert (world.apply().folder / "src/fresh.cpp").is_file()


@pytest.mark.parametrize("name", ["../x", "Big", "", "a b", "low", ".x"])
def test_names_that_can_not_be(world: World, name: str) -> None:
    before = contents(world.patches)
    with pytest.raises(UsageError):
        scaffold.new(world.patches, name, world.listed(), "x", [], PIN)
    with pytest.raises(UsageError):
        scaffold.new(world.patches, "fine", world.listed(), "x", ["nobody"], PIN)
    assert contents(world.patches) == before


def test_a_series_of_ones_own_begins(tmp_path: Path) -> None:
    scaffold.begin(tmp_path / "mine")
    scaffold.new(tmp_path / "mine", "one", [], 'It\'s "quoted" \\ here', [], "odd.name")
    feature = series.load(tmp_path / "mine")["one"]
    assert feature.title == 'It\'s "quoted" \\ here' and feature.at("odd.name").kind == "hooks"


# --- killed at each step ---


def dies_at(number: int, work: object) -> int:
    """Run a job in a child that dies at its `number`-th step, and return its exit code."""
    pid = os.fork()
    if pid == 0:
        left = number

        def counted(name: str) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os._exit(9)

        for module in (session, opening, replacing, scaffold):
            module.step = counted  # type: ignore[attr-defined]
        try:
            work()  # type: ignore[operator]
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_edit_killed_at_each_step(world: World) -> None:
    before = contents(world.patches)
    for number in range(1, 30):
        code = dies_at(number, lambda: edit(world))
        folder = session.folder_of(world.paths, "mid", PIN)
        if (folder / "state.json").exists():
            made = session.load(folder)
            if not made.ready:
                opening.proceed(opened(world), folder, False, QUIET)
        else:
            edit(world)
        assert write_back(world, session.load(folder)).written == ()
        assert contents(world.patches) == before
        session.close(folder)
        if code == 0:
            break
        assert code == 9
    assert number > 4


def test_continue_killed_at_each_step(world: World) -> None:
    for number in range(1, 30):
        tree, made = conflict(world)
        (made.tree / "src/main.cpp").write_text(changed(5, "both"))
        job = functools.partial(opening.proceed, opened(world, tree), made.folder, False, QUIET)
        code = dies_at(number, job)
        held = session.load(made.folder)
        if not held.ready:
            held = opening.proceed(opened(world, tree), made.folder, False, QUIET)
        assert (held.tree / "src/main.cpp").read_text() == changed(5, "both")
        session.close(made.folder)
        if code == 0:
            break
        assert code == 9
    assert number > 1


def test_refresh_killed_at_each_step(world: World) -> None:
    old = contents(world.patches / "mid")
    made = edit(world)
    put(made, 12, "more")
    (made.tree / "src/mid.cpp").write_text("int middle;\n")
    for number in range(1, 30):
        code = dies_at(number, lambda: write_back(world, made))
        replacing.recover_all(world.patches)
        now = contents(world.patches / "mid")
        feature = series.load(world.patches)["mid"]
        assert now == old or feature.files[0].data == b"int middle;\n"
        assert (made.tree / "src/mid.cpp").read_text() == "int middle;\n"
        write_back(world, made)
        assert series.load(world.patches)["mid"].files[0].data == b"int middle;\n"
        assert [p.name for p in world.patches.iterdir() if p.name.startswith(".")] == []
        shutil.rmtree(world.patches / "mid")
        for name, data in old.items():
            (world.patches / "mid" / name).parent.mkdir(parents=True, exist_ok=True)
            (world.patches / "mid" / name).write_bytes(data)
        if code == 0:
            break
        assert code == 9
    assert number > 4


def test_new_killed_at_each_step(world: World) -> None:
    for number in range(1, 30):
        code = dies_at(
            number, lambda: scaffold.new(world.patches, "fresh", ("low", "mid", "top"), "x", [], PIN)
        )
        replacing.recover_all(world.patches)
        if "fresh" not in world.listed():
            scaffold.new(world.patches, "fresh", world.listed(), "x", [], PIN)
        assert series.load(world.patches).names == ("low", "mid", "top", "fresh")
        shutil.rmtree(world.patches / "fresh")
        world.series("low", "mid", "top")
        if code == 0:
            break
        assert code == 9
    assert number > 3


@pytest.mark.matrix
def test_the_real_features_come_back_as_they_were(
    lock: Lock, installed_paths: Paths, pin: str | None, tmp_path: Path
) -> None:
    """Opened and written back at the pin under test, each real feature is the same, byte for byte."""
    shutil.copytree(installed_paths.patches, tmp_path / "patches")
    paths = replace(installed_paths, patches=tmp_path / "patches", build=tmp_path / "build")
    project = Project(paths, lock, serving(series.load(paths.patches), lock))
    before = contents(paths.patches)
    at = lock.pin(pin).name
    names = [one.name for one in project.stack.features if one.at(at).kind == "hooks"]
    assert "view-copy" in names
    for name in names:
        made = opening.begin(project, name, pin, None, QUIET)
        done = refresh.refresh(project, made.folder, QUIET)
        assert (done.written, done.removed) == ((), ())
        assert git(made.tree, "status", "--short") == ""
    assert contents(paths.patches) == before
