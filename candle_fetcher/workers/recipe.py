"""What a worker makes its fetcher of: a small value that can be pickled, and has no keys."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import pickle
import platform
import uuid
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from candle_fetcher.core.errors import InputError, shown
from candle_fetcher.providers import Provider
from candle_fetcher.settings import Settings

_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Recipe(NamedTuple):
    """What a worker makes its fetcher of. `make` is the class CandleFetcher, which is pickled by its name.

    `machine` is that of the caller: a worker on it that has a folder shares the budget by the folder. Any other takes
    one part in `workers` of it. Equal recipes have equal keys.
    """

    make: Callable[..., Any]
    provider: Any
    settings: Settings
    clock: Callable[[], float]
    workers: int
    machine: str
    key: str = ""

    def make_fetcher(self) -> Any:
        """Return a new fetcher. Raises InputError where this process lacks what it needs, such as a plug-in."""
        settings = self.settings
        if settings.disk_folder is None or self.machine != this_machine():
            settings = settings._replace(budget_share=max(settings.budget_share / self.workers, 0.0001))
        return self.make(self.provider, **settings._asdict(), clock=self.clock, progress=False)


def make_recipe(runtime: Any, make: Callable[..., Any] | None, executor: Executor, jobs: int) -> Recipe:
    """Return the recipe for the workers of an executor that gets so many jobs, by the runtime and the class of a
    CandleFetcher.

    Raises InputError for keys, which are never sent, and for what cannot be pickled.
    """
    if runtime.api_keys.are_given:
        raise InputError(
            "api_keys were given to this CandleFetcher, and keys are never sent to the workers of an executor; set the "
            "environment variables of the keys where the workers run, and make the CandleFetcher without api_keys"
        )
    provider, clock = sendable_provider(runtime, runtime.provider), getattr(runtime.clock, "__wrapped__", runtime.clock)
    check_sendable("the class of this CandleFetcher", make)
    check_sendable("clock", clock)
    assert make is not None
    recipe = Recipe(make, provider, runtime.settings, clock, _count_workers(executor, jobs), this_machine())
    return recipe._replace(key=hashlib.blake2b(pickle.dumps(recipe), digest_size=16).hexdigest())


def sendable_provider(runtime: Any, provider: Any) -> Any:
    """Return the provider as another process finds it: by its id, if it is the one of that id.

    Raises InputError for one that can neither be found by its id nor be pickled.
    """
    if not isinstance(provider, Provider):
        return provider
    with contextlib.suppress(InputError):
        if runtime.find(provider.name) is runtime.find(provider):
            return provider.name
    check_sendable(f"provider {provider.name!r}", provider)
    return provider


def check_executor(executor: object) -> Executor:
    """Return the executor. Raises InputError for anything else."""
    if isinstance(executor, Executor):
        return executor
    hint = "client.get_executor()" if hasattr(executor, "get_executor") else "ProcessPoolExecutor(4)"
    raise InputError(
        f"executor {shown(executor)} is not a concurrent.futures.Executor; expected one, such as {hint}, or None"
    )


def is_of_threads(executor: Executor) -> bool:
    """Return whether the executor works in this process with what the caller has: nothing is sent to it.

    Raises InputError where it is not an executor.
    """
    check_executor(executor)
    return isinstance(executor, ThreadPoolExecutor) and "Interpreter" not in type(executor).__name__


def check_sendable(name: str, value: object) -> None:
    """Raise InputError where the value cannot be pickled."""
    try:
        pickle.dumps(value)
    except Exception as error:
        raise InputError(
            f"{name} cannot be sent to the workers of an executor ({error}); expected functions of modules, no "
            "lambdas, and a plug-in by its id; or use a ThreadPoolExecutor"
        ) from error


def _count_workers(executor: Any, jobs: int) -> int:
    """Return how many workers the executor has; where it does not say, as many as there are jobs."""
    client: Any = getattr(executor, "_client", None)  # of a Dask cluster: each worker is a process
    if hasattr(client, "nthreads"):
        return max(1, len(client.nthreads()))
    counts = [getattr(executor, name, None) for name in ("_max_workers", "max_workers", "num_workers")]
    return max(1, next((count for count in counts if isinstance(count, int)), jobs))


@functools.cache
def this_machine() -> str:
    """Return what names this machine since it was started; processes on it share locks and a steady clock."""
    try:
        boot = _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        boot = f"{uuid.getnode():x}"
    return f"{platform.node()} {boot}"
