import pytest


@pytest.fixture(scope="module")
def check_links(tool):
    return tool("check_links")


def test_finds_what_leads_nowhere(check_links, tmp_path, capsys):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "b.html").write_text('<h1 id="here">B</h1><a href="../a.html">a</a>')
    (tmp_path / "a.html").write_text(
        '<a href="below/b.html#here"></a><a href="below/b.html#gone"></a><a href="#own"></a>'
        '<p id="own"></p><img src="missing.png"><a href="https://example.org/x#y"></a>'
    )
    assert check_links.broken_links(tmp_path) == {
        tmp_path / "a.html": ["below/b.html#gone", "missing.png"]
    }
    assert check_links.main(tmp_path) == 1
    assert "2 broken" in capsys.readouterr().out


def test_a_whole_site_passes(check_links, tmp_path):
    (tmp_path / "index.html").write_text('<a href="index.html">self</a><a href="mailto:a@b">m</a>')
    assert check_links.main(tmp_path) == 0
