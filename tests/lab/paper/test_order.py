from dataclasses import dataclass

from overparam.lab.paper.order import cheapest_first


@dataclass(frozen=True)
class Piece:
    name: str
    cost: float
    done: bool = False

    def finished(self):
        return self.done

    def train(self, stop, on_cost):
        raise AssertionError


JOBS = {
    "small": [Piece("s1", 1), Piece("s2", 3)],
    "large": [Piece("l1", 50), Piece("l2", 60)],
    "middle": [Piece("m", 9)],
    "extra": [Piece("e", 8)],
}


def names(needs, jobs=JOBS):
    return [job.name for job in cheapest_first(needs, jobs)]


def test_experiments_one_by_one_the_cheapest_first_and_in_each_the_longest_job_first():
    needs = {"a": ["large"], "b": ["small"], "c": ["middle"]}
    assert names(needs) == ["s2", "s1", "m", "l2", "l1"]


def test_a_shared_study_is_trained_once_and_counts_for_the_first():
    # After b, c lacks the extra only, and so is cheaper than d.
    needs = {"c": ["small", "middle", "extra"], "b": ["small", "middle"], "d": ["middle", "large"]}
    assert names(needs) == ["m", "s2", "s1", "e", "l2", "l1"]


def test_what_is_finished_costs_nothing():
    done = {**JOBS, "large": [Piece("l1", 50, True), Piece("l2", 60, True)]}
    assert names({"b": ["small"], "a": ["large"]}, done) == ["l2", "l1", "s2", "s1"]


def test_each_job_once_and_equal_costs_in_the_order_given():
    needs = {"a": ["middle"], "b": ["middle"], "c": ["small", "middle"]}
    assert names(needs) == ["m", "s2", "s1"]
    assert cheapest_first({}, {}) == []
