import pytest

pytest.importorskip("sphinx", reason="Sphinx is not installed; install the extra 'docs'")


@pytest.fixture(scope="module")
def named(tool):
    return tool("table_names").named


def test_a_table_has_the_name_of_what_stands_above_it(named):
    page = (
        '<h2>Speed &amp; <em>memory</em><a class="headerlink" href="#x">¶</a></h2>'
        '<table class="docutils"><tr></tr></table><summary>Every "cell"</summary><table>'
    )
    found = named(page)
    assert '<table class="docutils" aria-label="Speed &amp; memory"><tr>' in found
    assert found.endswith('<table aria-label="Every &quot;cell&quot;">')


@pytest.mark.parametrize("table", ["<table> <caption>Own</caption>", '<table aria-label="own">'])
def test_names_of_its_own_stay(named, table):
    page = f"<h2>Above</h2>{table}</table>"
    assert named(page) == page
