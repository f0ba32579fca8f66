"""What Landlock's rules name: the plain paths, or, where a directory is excluded, everything beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingestd.sandbox import landlock


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a/one", "b/state/journal", "b/c/two", "b/three"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b/link").symlink_to("/etc")
    return tmp_path.resolve()


def spared(root: Path, *exclude: Path) -> set[str]:
    return set(landlock.spare(str(root), [str(path) for path in exclude]))


def test_a_directory_without_an_excluded_one_is_named_whole(tree: Path) -> None:
    assert spared(tree / "a", tree / "b/state") == {str(tree / "a")}
    assert spared(tree, tree.parent / (tree.name + "-other")) == {str(tree)}


def test_an_excluded_directory_is_left_out_on_every_way_to_it(tree: Path) -> None:
    assert spared(tree, tree / "b/state") == {str(tree / name) for name in ("a", "b/c", "b/three")}
    assert spared(tree, tree / "b/state", tree / "b/c") == {str(tree / name) for name in ("a", "b/three")}
    (tree / "way").symlink_to(tree / "b")
    assert spared(tree / "way", tree / "b/state") == {str(tree / name) for name in ("b/c", "b/three")}


def test_what_is_named_inside_an_excluded_directory_is_meant(tree: Path) -> None:
    assert spared(tree / "b/state/journal", tree / "b") == {str(tree / "b/state/journal")}
    assert spared(tree / "b/state", tree / "b/state") == set()


def test_a_directory_that_is_gone_excludes_nothing_else(tree: Path) -> None:
    assert spared(tree / "a", tree / "a/none") == {str(tree / "a/one")}


def test_each_version_holds_what_it_knows() -> None:
    files, tcp, scopes = landlock.handled(1)
    assert (files, tcp, scopes) == (0x1FFF, 0, 0)
    assert [landlock.handled(version)[0].bit_length() for version in (2, 3, 4, 5, 8, 9, 99)] == [
        14,
        15,
        15,
        16,
        16,
        17,
        17,
    ]
    assert landlock.handled(4)[1:] == (3, 0)
    assert landlock.handled(6)[1:] == (3, 3)
    assert not landlock.WRITE & landlock.EXECUTE
