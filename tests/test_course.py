"""The course of a search: whoever reads its archive gets the numbers that the loop reported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_loop import BATCH, OBJECTIVES, SETTINGS, SPEC, Climber, CountingEvaluator, search, toy_values

from evaluators.base import Evaluation, Measure, MeasureEvaluator
from search.archive import Archive
from search.course import Course
from search.loop import Budget, SearchProgress, run_loop
from search.pareto import hypervolume, minimised, reference_point
from search.run.members import evaluate
from space.candidate import Candidate, LayerShape
from space.space import SearchSpace

Numbers = tuple[object, ...]


def numbers(course: Course | SearchProgress) -> Numbers:
    """All that a course says, but for how long it took."""
    front = [e.candidate.key for e in course.front]
    return dict(course.counts), course.failed, course.tokens, course.fidelity, front, course.hypervolume


def read(path: Path, fidelities: list[str]) -> tuple[Course, dict[int, Numbers]]:
    """The course of an archive, and its numbers at the end of each generation as one who reads along has them."""
    course, ends = Course(OBJECTIVES, fidelities), {}
    with Archive(path, SETTINGS) as archive:
        evaluations = archive.evaluations()
    for place, evaluation in enumerate(evaluations):
        course.add(evaluation)
        following = evaluations[place + 1].generation if place + 1 < len(evaluations) else 0
        if evaluation.generation and following != evaluation.generation:
            course.end_generation()
            ends[evaluation.generation] = numbers(course)
    return course, ends


def reported(seen: list[SearchProgress]) -> dict[int, Numbers]:
    return {progress.generation: numbers(progress) for progress in seen if progress.generation_done}


def climb(path: Path, budget: Budget) -> list[SearchProgress]:
    """A search that asks at two fidelities."""
    cheap = MeasureEvaluator("cheap", [Measure(OBJECTIVES, lambda c: {**toy_values(c), "error": 0.0}, 10)])
    seen: list[SearchProgress] = []
    with Archive(path, SETTINGS) as archive:
        climber = Climber(SearchSpace(SPEC, mlp_step=4))
        ladder = [cheap, CountingEvaluator()]
        run_loop(climber, ladder, archive, OBJECTIVES, budget, ask=BATCH, on_progress=seen.append)
    return seen


def test_a_reader_has_the_numbers_of_the_loop_at_each_generation(tmp_path: Path) -> None:
    path, seen = tmp_path / "archive.jsonl", []
    search(path, CountingEvaluator(), on_progress=seen.append)
    course, ends = read(path, ["search"])
    assert ends == reported(seen)
    assert len(ends) == 12
    assert course.curves == {"search": [(p.tokens, p.hypervolume) for p in seen if p.generation_done]}
    assert course.volumes == [p.hypervolume for p in seen if p.generation_done]
    assert (course.generation, course.seconds) == (seen[-1].generation, pytest.approx(seen[-1].seconds))


def test_so_it_has_of_several_fidelities_none_of_which_is_mixed_with_another(tmp_path: Path) -> None:
    seen = climb(tmp_path / "archive.jsonl", Budget(evaluations=11))
    course, ends = read(tmp_path / "archive.jsonl", ["cheap", "search"])
    assert ends == reported(seen)
    done = [p for p in seen if p.generation_done]
    first = next(number for number, p in enumerate(done) if p.fidelity == "search")
    assert 0 < first < len(done) - 1
    assert course.curves == {
        "cheap": [(p.tokens, p.hypervolume) for p in done[:first]],
        "search": [(p.tokens, p.hypervolume) for p in done[first:]],
    }


def test_what_is_asked_after_the_search_counts_for_nothing(tmp_path: Path) -> None:
    path, seen = tmp_path / "archive.jsonl", []
    search(path, CountingEvaluator(), Budget(evaluations=37), on_progress=seen.append)
    best = Candidate((LayerShape(4, 2, 16), *(LayerShape(0, 0, 0),) * 5))  # would be on any front
    with Archive(path, SETTINGS) as archive:
        evaluate(CountingEvaluator(lambda c: {"error": -1.0, "size": -1.0}), archive, [best])
        evaluate(CountingEvaluator(fidelity="heldout"), archive, [best, Candidate.dense(SPEC)])
        assert [e.generation for e in archive.evaluations()[37:]] == [0, 0, 0]
    course, ends = read(path, ["search"])
    assert ends == reported(seen)
    assert numbers(course) == numbers(seen[-1])


@pytest.mark.parametrize("first", [5, 37, 40])
def test_a_search_that_goes_on_counts_what_was_asked_between_where_it_asks_it_again(tmp_path: Path, first: int) -> None:
    alone = search(tmp_path / "alone.jsonl", CountingEvaluator())
    path, seen = tmp_path / "archive.jsonl", []
    search(path, CountingEvaluator(), Budget(evaluations=first))
    with Archive(path, SETTINGS) as archive:  # the end of the smaller search asks for what the larger one wants too
        evaluate(CountingEvaluator(), archive, [alone[place].candidate for place in (first, 50, 89)])
    again = CountingEvaluator()
    assert search(path, again, on_progress=seen.append) == alone
    assert len(again.asked) == 90 - first - 3
    assert read(path, ["search"])[1] == reported(seen)
    repeated: list[SearchProgress] = []
    search(path, CountingEvaluator(), on_progress=repeated.append)
    assert reported(repeated) == reported(seen)


def test_the_reference_is_the_front_at_the_end_of_the_first_generation_with_one() -> None:
    course = Course(OBJECTIVES, ["search"])
    values = [{"error": 4.0, "size": 1.0}, {"error": 1.0, "size": 4.0}, {"error": 2.0, "size": 2.0}]
    answers = [
        Evaluation(Candidate((LayerShape(4, 2, place),)), "search", values=each, tokens=5, generation=1 + place // 2)
        for place, each in enumerate(values)
    ]
    course.add(answers[0])
    assert course.hypervolume is None
    course.add(answers[1])
    assert course.curves == {}
    course.add(answers[2])
    reference = reference_point(minimised(values[:2], OBJECTIVES))
    ends = [hypervolume(minimised(values[:count], OBJECTIVES), reference) for count in (2, 3)]
    assert course.curves == {"search": [(10, ends[0]), (15, ends[1])]}
    assert course.volumes == ends[:1]  # of the generations that are over
    course.end_generation()
    assert course.volumes == ends


def test_an_answer_at_another_fidelity_is_refused() -> None:
    answer = Evaluation(Candidate.dense(SPEC), "heldout", values={"error": 0.0, "size": 1.0}, generation=1)
    with pytest.raises(ValueError, match="expected an evaluation of search, got one of heldout"):
        Course(OBJECTIVES, ["search"]).add(answer)
    Course(OBJECTIVES, ["search"]).add(replace(answer, generation=0))
    with pytest.raises(ValueError, match="at least 1 fidelity"):
        Course(OBJECTIVES, [])
