"""Whole series in the workers of an executor: processes of this machine, or of others."""

from candle_fetcher.workers.fetching import fetch_by_threads, fetch_by_workers
from candle_fetcher.workers.recipe import Recipe, check_sendable, is_of_threads, make_recipe, sendable_provider
from candle_fetcher.workers.sending import Workers, lost_job

__all__ = [
    "Recipe",
    "Workers",
    "check_sendable",
    "fetch_by_threads",
    "fetch_by_workers",
    "is_of_threads",
    "lost_job",
    "make_recipe",
    "sendable_provider",
]
