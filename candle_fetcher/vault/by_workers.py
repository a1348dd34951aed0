"""Updates by the workers of an executor: they write into the vault, and the rows of the report come back."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NamedTuple

from candle_fetcher.concurrency import POLL_S, pause
from candle_fetcher.core.errors import InputError
from candle_fetcher.fetcher import CandleFetcher
from candle_fetcher.fetcher.calls import refuse_own_threads
from candle_fetcher.fetcher.request import Range
from candle_fetcher.vault.homes import open_home
from candle_fetcher.vault.opening import Options
from candle_fetcher.vault.source import resolve
from candle_fetcher.vault.state import SeriesId
from candle_fetcher.vault.urls import is_file_url, local_folder
from candle_fetcher.vault.work import Job, Updates
from candle_fetcher.workers import Workers, check_sendable, make_recipe, sendable_provider


class SentVault(NamedTuple):
    """What a worker opens the vault by."""

    where: str
    options: Options
    wanted: Range
    partial: str = "raise"


def sendable_place(where: str | os.PathLike[str]) -> str:
    """Return the place of a vault as other processes find it: an absolute path, or a URL as it is. Raises InputError
    for a URL of files without locks, which one process alone writes to."""
    text = os.fspath(where)
    scheme, _, rest = text.partition(":///")
    if rest and scheme.partition("+")[0] in ("sqlite", "duckdb"):
        return f"{scheme}:///{Path(rest).expanduser().absolute()}"
    if is_file_url(text) and local_folder(text) is None:
        raise InputError(
            "a vault at a URL of files has no locks between processes, and executor= is of other processes; leave it "
            "out, or use an executor of threads"
        )
    return text if "://" in text else str(Path(text).expanduser().absolute())


def run_by_workers(
    updates: Updates, vault: SentVault, fetcher: CandleFetcher, executor: Executor, tell: Callable[[], object]
) -> None:
    """Do all updates. `tell` is called after each.

    A series that another writer holds is handed over again, after the others. Raises InputError for what cannot be
    sent, before anything is.
    """
    refuse_own_threads()
    runtime, jobs = fetcher._runtime, updates.jobs
    check_sendable("process", vault.options.processors)
    recipe = make_recipe(runtime, type(fetcher), executor, len(jobs))
    providers = [job.named and sendable_provider(runtime, job.named.provider) for job in jobs]
    updates.home.change(lambda found: found)  # workers look for it
    with runtime.scope() as scope, Workers(executor, recipe) as workers:
        for at, job in enumerate(jobs):
            if job.named is None:
                updates.do(at)
                tell()
            else:
                workers.submit(at, _update_in_worker, vault, job._replace(named=None), providers[at])
        for at, done in workers.results(scope):
            if done.error is None and done.value is None:
                workers.submit(at, _update_in_worker, vault, jobs[at]._replace(named=None), providers[at])
                continue
            if done.error is not None:
                updates.note_lost(at, done.error)
            else:
                updates.note(at, *done.value)
            tell()


def _update_in_worker(
    fetcher: CandleFetcher, vault: SentVault, job: Job, provider: Any
) -> tuple[tuple[Any, ...], Exception | None] | None:
    """Return the row of the series and its error; None, after a moment, where another writer holds it."""
    home = open_home(vault.where, vault.options)
    try:
        if home.load() is None:
            raise InputError(
                f"there is no vault in {home} on {platform.node()}, where a worker of the executor runs; expected a "
                "place that all workers share"
            )
        named = resolve(fetcher, job.typed.provider_symbol, job.typed.timeframe, provider, job.typed.kind)
        _check_same(named.series, job.typed)
        updates = Updates(home, vault.options, fetcher, vault.wanted, vault.partial)
        updates.jobs.append(job._replace(named=named._replace(series=job.typed)))
        if updates.do(0):
            return updates.result(0)
        pause(threading.Event(), POLL_S)
        return None
    finally:
        home.close()


def _check_same(found: SeriesId, wanted: SeriesId) -> None:
    if found.key != wanted.key:
        raise InputError(f"a worker takes {wanted.label} for {found.label}; install the same packages for all workers")
