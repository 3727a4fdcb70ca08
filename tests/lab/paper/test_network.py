"""The claims on the network, on made-up curves for which the answer is known."""

import dataclasses

import polars as pl
import pytest

from overparam.data import load_images
from overparam.lab.paper.network import NetworkResult, load_result, report
from overparam.lab.paper.network_curves import CURVES_SCHEMA, with_loss
from overparam.lab.paper.network_study import METHODS, SCALES, network_jobs
from overparam.lab.verdicts import Verdict

TINY = SCALES["tiny"]
STEPS = (1, 20, 40)
FORMS = ("plain", "product", "product_factors")


def curves_of(study, runs):
    """Runs: method -> (cross-entropies, penalties, last test error); seeds differ a little."""
    rows = []
    for method, (cross_entropies, penalties, error) in runs.items():
        for rate in study.rates:
            for seed in study.seeds:
                wiggle = 1 + 0.01 * seed
                for step, cross_entropy, penalty in zip(
                    STEPS, cross_entropies, penalties, strict=True
                ):
                    value = cross_entropy * wiggle
                    rows.append(
                        (method, rate, seed, step, value, penalty, value, error * wiggle,
                         error * wiggle, None)
                    )  # fmt: skip
    return with_loss(pl.DataFrame(rows, schema=CURVES_SCHEMA, orient="row"))


def alone_of(study, values):
    rows = [
        (form, rate, seed, step, value, value, value, None, None, None)
        for form in FORMS
        for rate in study.rates
        for seed in study.seeds
        for step, value in zip(STEPS, values[form], strict=True)
    ]
    return with_loss(pl.DataFrame(rows, schema=CURVES_SCHEMA, orient="row"))


PENALTIES = {"plain": (3.0, 2.5, 2.0), "product": (9.0, 1.0, 0.5), "product_factors": (4.0,) * 3}
PAPER = {"plain": (3.1, 2.0, 1.56), "product": (12.3, 0.1, 0.0106), "product_factors": (4.0,) * 3}
SLOW, FAST = (2.0, 0.5, 0.1), (2.0, 0.2, 0.05)


def result_of(
    study=TINY, plain=SLOW, product=SLOW, errors=(0.1, 0.1), penalties=PENALTIES, tested=1000
):
    runs = {
        "plain": (plain, penalties["plain"], errors[0]),
        "plain_unpenalized": (plain, (0.0,) * 3, errors[0]),
        "product": (product, penalties["product"], errors[1]),
        "product_factors": (product, penalties["product_factors"], errors[1]),
        "product_unpenalized": (product, (0.0,) * 3, errors[1]),
    }
    return NetworkResult(
        study, curves_of(study, runs), alone_of(study, PENALTIES), alone_of(TINY, PAPER), tested
    )


def claims_of(result):
    return {claim.statement.split()[0]: claim for claim in report(result).claims}


def test_a_lower_penalty_alone_is_not_acceleration():
    claims = claims_of(result_of())
    accelerated = claims["Replacing"]
    assert [item.agrees for item in accelerated.evidence] == [True, None, None, None, None]
    assert accelerated.verdict == Verdict.TOO_EARLY
    agrees = [item.agrees for item in claims["The"].evidence]
    # All but the last: at the paper's size the product's penalty ends at a quarter of 0.04.
    assert agrees == [True] * 8 + [False]


def test_a_lower_cross_entropy_is_acceleration():
    claims = claims_of(result_of(product=FAST, errors=(0.1, 0.05)))
    assert claims["Replacing"].verdict == Verdict.YES
    slower = claims_of(result_of(plain=FAST, product=SLOW, errors=(0.05, 0.1),
                                 penalties={**PENALTIES, "product": (9.0, 9.0, 9.0)}))  # fmt: skip
    assert slower["Replacing"].verdict == Verdict.NO


def test_a_test_error_counted_on_few_images_decides_nothing():
    for tested, agrees in ((300, None), (1000, True)):
        result = result_of(product=FAST, errors=(0.1, 0.06), tested=tested)
        found = claims_of(result)["Replacing"].evidence[3]
        assert found.agrees is agrees
        assert found.text.startswith("Test error at the end: product")
    assert "On a sample of 300" not in found.text


def test_a_penalty_that_data_holds_up_is_not_the_one_alone():
    held = {**PENALTIES, "product": (9.0, 3.0, 1.5)}
    agrees = [e.agrees for e in claims_of(result_of(penalties=held))["The"].evidence]
    assert agrees[3] is False  # 1.5 against 0.5 without data
    assert agrees[0] is True


def test_a_fit_that_outweighs_the_penalty_is_reported():
    far = (5.0, 4.0, 4.0)
    agrees = [e.agrees for e in claims_of(result_of(plain=far))["The"].evidence]
    assert agrees[1] is False  # 2 of 6
    assert agrees[2] is False  # never more than half
    assert agrees[6] is False  # a difference of 1.5 of 5.4


def test_the_papers_size_is_compared_with_the_papers_values():
    paper = dataclasses.replace(SCALES["paper"], seeds=(0, 1))
    claims = claims_of(result_of(paper))
    texts = [item.text for item in claims["The"].evidence]
    assert sum("trained batch loss over the paper's" in text for text in texts) == 2
    assert claims["The"].why.endswith("At the authors' size and horizon.")
    smaller = claims_of(result_of(SCALES["quick"]))["The"]
    assert not any("trained batch loss" in item.text for item in smaller.evidence)
    assert "images of 14 x 14, 8 and 64 channels, 256 hidden units, 900 steps" in smaller.why


def test_sections_have_charts_and_the_numbers():
    sections = {section.heading: section for section in report(result_of()).sections}
    assert len(sections) == 3
    assert all(section.chart is not None for section in sections.values())
    html = sections["Cross-entropy and penalty apart"].body_html
    for method in METHODS.values():
        assert html.count(method.label) == 2
    assert ">2.1<" in html
    assert "not reached" in html
    assert ">20<" in html


def test_several_rates_are_tuned_for_each_network():
    study = dataclasses.replace(TINY, rates=(0.01, 0.02, 0.04))
    result = result_of(study, product=FAST, errors=(0.1, 0.05))

    def tuned_where(methods):
        """These methods are best at the middle lr, the others at the first."""
        best = (pl.col("rate") == 0.02) & pl.col("method").is_in(methods)
        errors = pl.when(best).then(0.01).otherwise("validation_error")
        curves = result.curves.with_columns(validation_error=errors)
        return report(dataclasses.replace(result, curves=curves))

    made = tuned_where(["plain", "product"])
    assert made.claims[-1].verdict == Verdict.YES
    assert "product at 0.02" in made.claims[-1].evidence[0].text
    assert "original at 0.02" in made.claims[-1].evidence[0].text
    assert made.sections[-1].heading == "The network at several learning rates"
    assert tuned_where(["plain"]).claims[-1].verdict == Verdict.YES  # the winner is at the edge
    assert "the smallest or the largest tried for: Product" in tuned_where(["plain"]).claims[-1].why
    found = tuned_where(["product"]).claims[-1].evidence
    assert [item.agrees for item in found] == [None, None]
    assert all(e.text.endswith("lr of original at 0.01 is at the edge of the grid.") for e in found)
    result = result_of(study, plain=FAST, errors=(0.05, 0.1))
    assert tuned_where(["plain", "product"]).claims[-1].verdict == Verdict.NO
    found = tuned_where(["plain"]).claims[-1].evidence
    assert [item.agrees for item in found] == [None, None]
    assert all(e.text.endswith("lr of product at 0.01 is at the edge of the grid.") for e in found)
    assert "not tuned" in report(result_of()).claims[0].why
    assert "not tuned" not in made.claims[0].why


def test_seeds_that_diverged_are_seen_as_such():
    result = result_of()
    lost = result.curves.with_columns(
        diverged_at=pl.when(pl.col("method") == "product").then(33).cast(pl.Int64)
    )
    claims = claims_of(dataclasses.replace(result, curves=lost))
    assert claims["Replacing"].evidence[0].agrees is False
    assert "diverged" in claims["Replacing"].evidence[0].text


def test_results_come_when_every_job_is_finished(tmp_path):
    study = dataclasses.replace(TINY, seeds=(0,), evaluated=50)
    jobs = network_jobs(study, load_images("digits").fingerprint, tmp_path)
    papers = jobs[-2:]
    assert load_result(study, jobs, 297) is None
    for job in jobs[:-2]:
        assert job.train(lambda: False, lambda cost: None)
    assert load_result(study, jobs, 297) is None
    for paper, small in zip(papers, (jobs[5], jobs[6]), strict=True):  # it takes minutes
        paper.file.write_bytes(small.file.read_bytes())
    result = load_result(study, jobs, 297)
    assert result is not None
    assert (result.tested, load_result(study, jobs, 40).tested) == (50, 40)
    assert set(result.curves["method"]) == set(METHODS)
    assert set(result.alone["method"]) == set(FORMS)
    assert set(result.paper_alone["method"]) == {"plain", "product"}
    assert len(report(result).claims) == 2
    jobs[0].file.write_bytes(b"x")
    with pytest.raises(ValueError, match="damaged"):
        load_result(study, jobs, 297)
