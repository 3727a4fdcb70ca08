from pathlib import Path

import pytest

from overparam._files import check_writable


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path):
    (tmp_path / "here" / "figures").mkdir(parents=True)
    (tmp_path / "here" / "file").write_text("kept")
    before = sorted(tmp_path.rglob("*"))
    check_writable(tmp_path / "here", "figures", "shards")
    check_writable(tmp_path / "a" / "b [1]" / "~", "c")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("blocked", ["out", "out/study", "out/study/figures"])
def test_what_is_in_the_way_is_named_and_nothing_is_left(tmp_path, blocked):
    (tmp_path / blocked).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / blocked).write_text("in the way")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError, match="exists") as caught:
        check_writable(tmp_path / "out" / "study", "shards", "figures")
    assert str(caught.value.filename) == str(tmp_path / blocked)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_to_nowhere_and_a_name_too_long(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for folder in (tmp_path / "link", tmp_path / "a" / ("x" * 300)):
        with pytest.raises(OSError, match=r"exists|too long"):
            check_writable(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_another_process_may_write_while_the_folder_is_checked(tmp_path, monkeypatch):
    real, made = Path.mkdir, []

    def written_by_others(path, *arguments, **options):
        made.append(path)
        real(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", written_by_others)
    check_writable(tmp_path / "cache" / "figures")
    assert made
    assert not [path for path in made if path.is_relative_to(tmp_path / "cache")]
