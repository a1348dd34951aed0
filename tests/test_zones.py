"""The wall clocks of all zones of the tz database, against `zoneinfo`."""

from __future__ import annotations

import bisect
import datetime as dt
import zoneinfo

import numpy as np
import pytest

from candle_fetcher import InputError
from candle_fetcher.core.finality import UNSTATED, Settling
from candle_fetcher.core.timeframe import parse_timeframe
from candle_fetcher.core.zones import zone

UTC = dt.timezone.utc
SECOND, HOUR, DAY = 1000, 3_600_000, 86_400_000
EPOCH = dt.datetime(1970, 1, 1, tzinfo=UTC)
END_S = 2_145_916_800  # 2038-01-01
AROUND = [
    sign * distance
    for sign in (-1, 1)
    for distance in (0, 1, SECOND, HOUR // 2, HOUR - 1, HOUR, 2 * HOUR, 3 * HOUR, DAY - HOUR, DAY, DAY + HOUR)
]
# Changes in the month of fasting, at midnight, by a day, by half an hour, within a week, in the other half of the year.
ODD = [
    "Africa/Casablanca", "Africa/Cairo", "America/Havana", "America/Noronha", "America/St_Johns", "America/Sao_Paulo",
    "Asia/Beirut", "Asia/Gaza", "Asia/Tehran", "Atlantic/Azores", "Australia/Lord_Howe", "Europe/Dublin",
    "Pacific/Apia", "Pacific/Kwajalein", "America/New_York", "America/Chicago", "Africa/Monrovia", "UTC",
]  # fmt: skip


def shown_ms(at_ms, info):
    """What a clock in the zone shows at the instant, counted like Unix ms."""
    moment = EPOCH + dt.timedelta(milliseconds=at_ms)
    return at_ms + moment.astimezone(info).utcoffset() // dt.timedelta(milliseconds=1)


def find_changes(info):
    """The seconds at which the zone's offset changes from 1970 to 2037, found day by day."""

    def offset(second):
        return dt.datetime.fromtimestamp(second, info).utcoffset()

    before = offset(0)
    for day in range(86_400, END_S, 86_400):
        after = offset(day)
        if after != before:
            yield (
                bisect.bisect_left(range(day - 86_400, day), 1, key=lambda at, was=before: offset(at) != was)
                + day
                - 86_400
            )
        before = after


def check(name):
    """Fails unless the zone agrees with zoneinfo about clocks, days and the instants of what clocks show."""
    info, ours = zoneinfo.ZoneInfo(name), zone(name)
    around = [at * 1000 + offset for at in find_changes(info) for offset in AROUND]
    instants = np.array(sorted({*around, *range(0, END_S * 1000, 40 * DAY + SECOND)}), np.int64)
    local = np.array([shown_ms(at, info) for at in instants.tolist()])
    assert np.array_equal(ours.to_local(instants), local)
    back = ours.to_utc(local)
    assert np.array_equal(ours.to_local(back), local)
    assert (back <= instants).all()  # of what comes twice the first
    begun = ours.midnight_ms(instants)
    shown = ours.to_local(begun)
    assert np.array_equal(shown // DAY, local // DAY)
    assert ((shown % DAY == 0) | (ours.to_local(begun - 1) // DAY < local // DAY)).all()
    assert (begun <= instants).all()


@pytest.mark.slow(every=3)
@pytest.mark.fault("H14", "B07", "B16")
@pytest.mark.parametrize("name", ODD)
def test_the_clock_of_an_odd_zone_is_that_of_the_tz_database(name):
    check(name)


@pytest.mark.long
@pytest.mark.fault("H14", "B07", "B16")
def test_the_clock_of_every_zone_is_that_of_the_tz_database():
    for name in sorted(zoneinfo.available_timezones()):
        check(name)


@pytest.mark.fault("H14")
def test_a_day_whose_midnight_is_skipped_begins_at_the_change():
    """Cairo put its clocks forward from 00:00 to 01:00 on 2023-04-28."""
    cairo, change = zone("Africa/Cairo"), int(dt.datetime(2023, 4, 27, 22, tzinfo=UTC).timestamp()) * 1000
    assert cairo.midnight_ms(np.array([change - 1, change, change + DAY - 2 * HOUR])).tolist() == [
        change - DAY,
        change,
        change,
    ]
    days = Settling(parse_timeframe("1d"), UNSTATED, "Africa/Cairo")
    assert days.close_ms(change - DAY) == change
    assert days.close_ms(change) == change + 23 * HOUR


@pytest.mark.fault("H14", "K19")
@pytest.mark.parametrize(
    "name", ["Europe/Atlantis", "", "../../etc/passwd", "America", "/etc/localtime", "a\0b", None, 5]
)
def test_a_zone_that_is_not_there_is_an_input_error(name):
    with pytest.raises(InputError, match="tz database"):
        zone(name)
