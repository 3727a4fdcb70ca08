import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overparam.lab.methods import OPTIMIZERS, Method, parse_method

whole = st.integers(1, 10**18).map(float)
methods = st.one_of(
    st.builds(Method, st.sampled_from(sorted(OPTIMIZERS))),
    st.builds(
        Method,
        st.sampled_from(sorted(OPTIMIZERS)),
        st.sampled_from(["rule", "rule_normalized", "metric", "norm", "entry"]),
        st.floats(1, 1e300) | whole,
    ),
    st.builds(
        Method,
        st.sampled_from(sorted(OPTIMIZERS)),
        st.just("rule"),
        st.just(2.0),
        st.floats(-1e300, 1e300).filter(bool),
    ),
    st.builds(Method, st.sampled_from(sorted(OPTIMIZERS)), st.just("factors"), whole),
    st.builds(
        Method, st.sampled_from(sorted(OPTIMIZERS)), st.just("radial"), st.floats(0, 1e300) | whole
    ),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(methods)
def test_names_read_back_as_the_same_method(method):
    assert parse_method(method.name) == method
    assert parse_method(f"  {method.name}\n") == method


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("gd", Method()),
        ("adam", Method("adam")),
        ("rule:2.5", Method("gd", "rule", 2.5)),
        ("gd+rule:2", Method("gd", "rule", 2.0)),
        ("rule:1e6", Method("gd", "rule", 1e6)),
        ("factors:3", Method("gd", "factors", 3.0)),
        ("adam+rule_normalized:2", Method("adam", "rule_normalized", 2.0)),
        ("momentum+factors:2.0", Method("momentum", "factors", 2.0)),
        ("norm:2", Method("gd", "norm", 2.0)),
        ("gd+radial:0", Method("gd", "radial", 0.0)),
        ("adam+radial:0.5", Method("adam", "radial", 0.5)),
        ("metric:2", Method("gd", "metric", 2.0)),
        ("rule:2,lam=1", Method("gd", "rule", 2.0, 1.0)),
        ("adam+rule:2.0,lam=-3e-1", Method("adam", "rule", 2.0, -0.3)),
        ("rule:2,lam=0", Method("gd", "rule", 2.0)),
        ("rule:3,lam=-0", Method("gd", "rule", 3.0)),
    ],
)
def test_names(name, method):
    assert parse_method(name) == method


def test_canonical_names_and_labels():
    assert parse_method("gd+rule:2.50").name == "rule:2.5"
    assert parse_method("adam+factors:2.0").name == "adam+factors:2"
    assert parse_method("rule:2.1234567891").name == "rule:2.1234567891"
    assert parse_method("rule:2.5").label == "Depth 2.5 (rule)"
    assert parse_method("rule_normalized:2").label == "Depth 2 (rule, normalized)"
    assert parse_method("adam+factors:2").label == "Adam, depth 2 (factors)"
    assert parse_method("momentum").label == "Heavy ball"
    assert parse_method("norm:3").label == "Depth 3 (norm factor)"
    assert parse_method("radial:2").label == "Stretched 2 times"
    assert parse_method("metric:2").label == "Depth 2 (metric step)"
    assert parse_method("rule:2.0,lam=1.0").name == "rule:2,lam=1"
    assert parse_method("adam+rule:2,lam=-.3").name == "adam+rule:2,lam=-0.3"
    assert parse_method("rule:2,lam=0.3").label == "Depth 2, imbalance 0.3 (rule)"
    assert parse_method("adam+radial:0.5").label == "Adam, stretched 0.5 times"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not understood"),
        ("   ", "not understood"),
        ("adam+", "not understood"),
        ("+rule:2", "not understood"),
        ("rule:2+adam", "not understood"),
        ("rule:-1", "not understood"),
        ("rule:", "not understood"),
        ("adm", "unknown optimizer 'adm'. Did you mean 'adam'?"),
        ("Momentum", "Did you mean 'momentum'?"),
        ("xyzzy", "unknown optimizer 'xyzzy'. Known: gd, momentum"),
        ("ruel:2", "unknown kind of depth 'ruel'. Did you mean 'rule'?"),
        ("adam+fctors:2", "Did you mean 'factors'?"),
        ("rule", "Did you mean 'rule:2'?"),
        ("factors", "Did you mean 'factors:2'?"),
        ("adam:2", "Did you mean 'adam+factors:2'?"),
        ("gd:2", "Did you mean 'factors:2'?"),
        ("adam+adam:2", "unknown kind of depth 'adam'"),
        ("plain:2", "plain weights have no depth"),
        ("plain", "unknown optimizer 'plain'"),
        ("rule:two", "depth 'two' is not a number"),
        ("rule:0.5", "depth 0.5 is not a finite number of at least 1"),
        ("norm:0.5", "depth 0.5 is not a finite number of at least 1"),
        ("radial:inf", "depth inf is not a finite number of at least 0"),
        ("rule:inf", "depth inf is not a finite number"),
        ("rule:nan", "depth nan is not a finite number"),
        ("factors:2.5", "use 'rule:2.5'"),
        ("adam+factors:2.5", "use 'adam+rule:2.5'"),
        ("rule:2,lam=", "not understood"),
        ("rule:2,mu=1", "not understood"),
        ("adam,lam=1", "not understood"),
        ("rule:2,lam=one", "imbalance 'one' is not a number"),
        ("rule:2,lam=inf", "imbalance inf is not a finite number"),
        ("rule:3,lam=1", "the rule of depth 2; write 'rule:2,lam=1'"),
        ("adam+factors:2,lam=0.3", "write 'adam+rule:2,lam=0.3'"),
    ],
)
def test_errors_name_the_value_and_the_remedy(text, message):
    with pytest.raises(ValueError, match="method ") as error:
        parse_method(text)
    assert message in str(error.value)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize("word", ["rule", "plain", "factors", "gd:2", "adam:2"])
def test_no_suggestion_repeats_the_mistake(word):
    with pytest.raises(ValueError, match="method ") as error:
        parse_method(word)
    assert f"Did you mean {word!r}" not in str(error.value)
    assert f"Did you mean {word.split(':')[0]!r}" not in str(error.value)
