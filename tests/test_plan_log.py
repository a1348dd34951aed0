"""What a plan over four years says is what the exchange then logs: files, requests and weight, by source.

In 5m, which takes as many files as 1m, and of one year unless slow tests run; `python tests/benchmarks/plan_log.py`
does the same in 1m and prints both sides.
"""

from __future__ import annotations

import itertools

import pytest
from benchmarks.plan_log import END, MIDDLE, START, Run, main, runs
from world import ms

DAY = 86_400_000


# From when on, and where the first half ends that is stored before; how many files and holes each plan has.
FOUR_YEARS = (START, MIDDLE, [48, 24, 24], [12, 1, 1])
HALF_A_YEAR = ("2023-12-15", "2024-03-15", [6, 3, 3], [0, 0, 0])


@pytest.fixture(
    scope="module", params=[HALF_A_YEAR, pytest.param(FOUR_YEARS, marks=pytest.mark.slow)], ids=["short", "long"]
)
def range_(request: pytest.FixtureRequest) -> tuple[str, str, list[int], list[int]]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def done(range_: tuple[str, str, list[int], list[int]], tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    return runs("5m", tmp_path_factory.mktemp("plans"), *range_[:2])


def test_exactly_what_was_planned_is_sent_with_nothing_stored_half_stored_and_nothing_known(
    done: list[Run], range_: tuple[str, str, list[int], list[int]]
) -> None:
    assert [run.is_exact() for run in done] == [True] * 3, "\n".join(map(str, done))
    assert [run.plan.files for run in done] == range_[2]
    assert [len(run.holes) for run in done] == range_[3]
    assert [set(run.plan.chunks) for run in done] == [
        {"archive", "rest"},
        {"disk", "archive", "rest"},
        {"archive", "rest"},
    ]


def test_the_last_two_days_come_by_rest(done: list[Run]) -> None:
    for run in done:
        spans = [span for span in run.rest_spans() if span.end_ms > ms(END) - 2 * DAY]
        assert spans[0].start_ms <= ms(END) - 2 * DAY
        assert all(one.end_ms == other.start_ms for one, other in itertools.pairwise(spans))
        assert spans[-1].end_ms == ms(END)


def test_one_request_more_or_less_is_seen(done: list[Run]) -> None:
    for run in done[:2]:
        for at in range(0, len(run.log), 7):
            less = run._replace(log=[*run.log[:at], *run.log[at + 1 :]])
            more = run._replace(log=[*run.log, run.log[at]])
            assert not more.is_exact(), run.log[at]
            # A clock that was asked in the last minutes is not asked again.
            assert not less.is_exact() or run.log[at].path.endswith("/time")
    stray = done[0].log[0]._replace(path="/api/v3/ticker/24hr", market="binance")
    assert not done[0]._replace(log=[*done[0].log, stray]).is_exact()


@pytest.mark.slow
def test_the_command_prints_both_sides_and_says_whether_they_are_equal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["1h"]) == 0
    out = capsys.readouterr().out
    assert out.count("\nexact\n") == 3
    assert "planned     sent\n" in out
