"""How candle_fetcher is packaged. `requirements.txt` mirrors INSTALL_REQUIRES; a test holds the two equal."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent

INSTALL_REQUIRES = [
    "requests>=2.32.4",
    "urllib3>=2.7.0",  # comes with requests; older ones have open security advisories
    "diskcache>=5.6.3",
    "cachetools>=5.5",
    "pandas>=2.2",  # brings the numpy that it was built for
    "tqdm>=4.66.3",
    "psutil>=5.9.8",
    "colorama>=0.4.6",
    "tzdata>=2024.1",  # zones of exchanges, where the system has no tz database
]

# Extras that add a feature for users; `all` is their union. An extra is declared when its feature is built.
FEATURES: dict[str, list[str]] = {
    "arrow": ["pyarrow>=17"],  # Parquet and Arrow files, output="arrow"
    "calendars": ["exchange_calendars>=4.5"],  # the sessions of stock exchanges, to tell a stock's gaps
    "dotenv": ["python-dotenv>=1.0"],  # .env for the command line
    "duckdb": ["duckdb>=1.2"],  # vaults in DuckDB
    "live": ["websocket-client>=1.9"],  # streams, in watch and follow
    "excel": ["xlsxwriter>=3.2"],  # workbooks
    "fsspec": ["fsspec>=2024.2", "pyarrow>=17"],  # vaults at URLs such as s3://, beside the package of the scheme
    "plot": ["plotly>=6.0"],  # pictures; older ones write numbers as text, which is larger
    "polars": ["polars>=1.9", "pyarrow>=17"],  # output="polars"
    "fast": ["isal>=1.7", "pyarrow>=17"],  # files of archives, unpacked and read in less time
    "service": ["fastapi>=0.115", "uvicorn>=0.34", "wsproto>=1.2", "pyarrow>=17", "plotly>=6.0"],  # candles over HTTP
    "redis": ["redis>=5.0"],  # RedisSink of watch and follow
    "sql": ["sqlalchemy>=2.0", "psycopg[binary]>=3.2"],  # vaults in PostgreSQL and SQLite
}

TEST = ["pytest>=8.2", "pytest-xdist>=3.5", "hypothesis>=6.100", *FEATURES["calendars"], *FEATURES["dotenv"]]

TOOLS = {
    "test": TEST,
    "dev": [
        *TEST,
        "ruff>=0.17",
        "mypy>=1.14",
        "pyright[nodejs]>=1.1.400",  # for tests/test_types.py
        "pandas-stubs",
        "radon>=6.0",  # for tests/structure.py
        "distributed>=2024.8",  # for the tests of fetch_many on a Dask cluster
        "ipykernel>=6.29",  # for the tests of errors and interrupts in notebooks
        "nbclient>=0.10",  # for tests/notebooks.py
        "openapi-python-client>=0.24",  # for the test that a generator of clients takes our OpenAPI document
        "playwright>=1.50",  # for tests/test_page.py, which drives the Chromium of the system
        "dask[dataframe]>=2024.8",  # for tests/test_vault_tools.py, which reads a vault by it and others
        *FEATURES["duckdb"],
        *FEATURES["excel"],
        *FEATURES["fsspec"],
        *FEATURES["live"],
        *FEATURES["plot"],
        *FEATURES["redis"],
        *FEATURES["polars"],
        *FEATURES["fast"],  # pyarrow also reads some of the real series that tests/real_series.py fetches
        *FEATURES["service"],
        *FEATURES["sql"],
        "types-cachetools",
        "types-colorama",
        "types-psutil",
        "types-requests",
        "types-tqdm",
    ],
    "tools": [  # for test_adapters_tools, test_service_tools and test_notebooks, in an environment of their own
        "arcticdb>=5",
        "backtesting>=0.6",
        "backtrader>=1.9.78",
        "duckdb>=1.2",
        "freqtrade>=2025.1",
        "ipykernel>=6.29",
        "mplfinance>=0.12.10b0",
        "nautilus_trader>=1.210",
        "nbclient>=0.10",
        "plotly>=5.18,<7",  # vectorbt for pandas 2 cannot be imported beside a newer one
        "polars>=1.9",
        "prophet>=1.1.6",
        "pyarrow>=17",
        "schemathesis>=4",
        "statsforecast>=2",
        "statsmodels>=0.14.4",
        "TA-Lib>=0.6.5",
        "vectorbt>=0.28",
    ],
    "bench": [
        "ccxt>=4.4",
        "python-binance>=1.0.19",
        "binance-historical-data>=0.1.14",
        "binance-bulk-downloader>=1.1",
    ],
}


def read_version() -> str:
    """`__version__` as it stands in the package, which is not imported: its dependencies may not be there yet."""
    source = (HERE / "candle_fetcher" / "core" / "version.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if match is None:
        raise RuntimeError('candle_fetcher/core/version.py has no line __version__ = "…"')
    return match[1]


def read_readme() -> str:
    """The long description; empty in a tree without a README."""
    readme = HERE / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


setup(
    name="candle-fetcher",
    version=read_version(),
    description="Complete and correct OHLCV candles from exchanges, downloaded once and quick to get again",
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    author="candle_fetcher contributors",
    license="MIT",
    keywords="candles ohlcv kline market data binance pandas cache",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Financial and Insurance Industry",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Office/Business :: Financial",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    install_requires=INSTALL_REQUIRES,
    extras_require={**FEATURES, "all": sorted({line for lines in FEATURES.values() for line in lines}), **TOOLS},
    packages=find_packages(include=["candle_fetcher", "candle_fetcher.*"]),
    package_data={"candle_fetcher": ["py.typed", "docs/*.md", "docs/providers/*.md", "service/web/*"]},
    entry_points={"console_scripts": ["candle-fetcher = candle_fetcher.cli:main"]},
    zip_safe=False,
)
