import pytest

pytest.importorskip("sphinx", reason="Sphinx is not installed; install the extra 'docs'")

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="50" viewBox="0 0 90 50"><rect '
    'width="100%"/><g id="clip0" role="graphics-object" aria-label="Step: 1"/>'
    '<use href="#clip0"/><path clip-path="url(#clip0)"/></svg>'
)


@pytest.fixture(scope="module")
def inline(tool):
    return tool("drawings").inline


def test_a_drawing_fits_the_page_and_is_read_as_its_description(inline):
    drawn = inline(SVG, "map", 'Speed-up "by" depth')
    assert 'role="img" aria-label="Speed-up &quot;by&quot; depth"' in drawn
    assert '<svg viewBox="0 0 90 50" aria-hidden="true" style="max-width: 90px">' in drawn
    assert "Step: 1" not in drawn
    assert "graphics-object" not in drawn


def test_drawings_of_one_page_share_no_names(inline):
    drawn = inline(SVG, "map", "")
    assert 'id="map-clip0"' in drawn
    assert 'href="#map-clip0"' in drawn
    assert "url(#map-clip0)" in drawn


def test_a_drawing_with_names_at_its_lines_is_marked(inline):
    name = '<text aria-roledescription="text mark" text-anchor="start">Adam</text></svg>'
    assert 'class="drawn stored named"' in inline(SVG.replace("</svg>", name), "map", "")
    assert 'class="drawn stored"' in inline(SVG, "map", "")


def test_a_drawing_without_a_size_is_refused(inline):
    with pytest.raises(ValueError, match="map: an SVG with a viewBox"):
        inline('<svg width="90"></svg>', "map", "")
