"""The order of the work: one experiment after another, the cheapest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from overparam.lab.executor import Job


def cheapest_first(
    needs: Mapping[str, Sequence[str]], jobs: Mapping[str, Sequence[Job]]
) -> list[Job]:
    """Jobs in the order that finishes experiments one by one.

    Next comes always the experiment whose unfinished jobs cost the least, given that the ones
    before it are done: experiments share studies. Within an experiment the longest jobs come first,
    so that no worker is left with a long one at its end.

    Args:
        needs: the studies that each experiment needs, by the experiment's name.
        jobs: the jobs of each study.
    """
    left = {
        study: sum(job.cost for job in own if not job.finished()) for study, own in jobs.items()
    }
    waiting = {name: set(studies) for name, studies in needs.items()}
    ordered: list[Job] = []
    while waiting:
        name = min(waiting, key=lambda name: sum(left[study] for study in waiting[name]))
        studies = waiting.pop(name)
        added = [job for study in needs[name] if study in studies for job in jobs[study]]
        ordered += sorted(added, key=lambda job: job.cost, reverse=True)
        for others in waiting.values():
            others -= studies
    return ordered
