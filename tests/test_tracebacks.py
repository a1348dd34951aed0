"""An error that reaches a user fits on one screen: the caller's line, one line of this package, the message."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import linecache
import logging
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import children
import forks
import pytest
from world import World, roots_at

import candle_fetcher
from candle_fetcher import (
    CandleFetcher,
    FetchManyError,
    IncompleteData,
    InputError,
    ProviderRefused,
    UnknownSymbol,
    sessions,
)
from candle_fetcher.cli import main
from candle_fetcher.core import errors
from candle_fetcher.core.tracebacks import short_errors
from candle_fetcher.practice import faults

SPAN = '"1h", "2024-01-01", "2024-01-02"'
DAY = ("1h", "2024-01-01", "2024-01-02")
DOWN = faults.status(503)
HTML = faults.html_200()
REFUSED = faults.status(400, b'{"code":-1104,"msg":"no"}')
SCREEN = 20
# By name: the class, the fault of the exchange, and the script. `nowhere` is a fetcher without a network.
CASES: dict[str, tuple[str, Any, str]] = {
    "a wrong timeframe": ("InputError", None, 'fetcher.fetch("BTC/USDT", "1x", "2024-01-01", "2024-01-02")'),
    "a wrong start": ("InputError", None, 'fetcher.fetch("BTC/USDT", "1h", "2024-13-02")'),
    "a wrong setting": ("InputError", None, 'CandleFetcher(timeout_s="x")'),
    "a bad cache folder": ("InputError", None, "CandleFetcher(cache_dir=5)"),
    "a foreign argument": ("UnknownArgument", None, 'fetcher.fetch("BTC/USDT", interval="1h")'),
    "a foreign setting": ("UnknownArgument", None, "CandleFetcher(timeout=5)"),
    "a misspelt symbol": ("UnknownSymbol", None, f'fetcher.fetch("BTC/UDST", {SPAN})'),
    "a misspelt symbol, export": ("UnknownSymbol", None, f'fetcher.export("BTC/UDST", {SPAN})'),
    "a misspelt symbol, frames": ("UnknownSymbol", None, f'list(fetcher.iter_frames("BTC/UDST", {SPAN}))'),
    "a misspelt symbol, gaps": ("UnknownSymbol", None, f'fetcher.gaps("BTC/UDST", {SPAN})'),
    "a misspelt symbol, funding": (
        "UnknownSymbol",
        None,
        'fetcher.fetch_funding("BTC/UDST", "2024-01-01", provider="binance-um")',
    ),
    "a misspelt symbol, cache": ("InputError", None, 'fetcher.cache.clear("kraken:§")'),
    "no such kind": ("NotOffered", None, f'fetcher.fetch("BTC/USDT", {SPAN}, kind="mark")'),
    "no network, symbols": ("TransportError", None, "nowhere.symbols()"),
    "no network": ("IncompleteData", None, f'nowhere.fetch("BTC/USDT", {SPAN})'),
    "no network, export": ("IncompleteData", None, f'nowhere.export("BTC/USDT", {SPAN})'),
    "a long pause": ("RateLimited", faults.rate_limited(900), "fetcher.symbols()"),
    "a ban": ("Banned", faults.banned(1_718_455_000_000), f'fetcher.fetch("BTC/USDT", {SPAN})'),
    "a firewall": ("AccessDenied", faults.forbidden(), f'fetcher.fetch("BTC/USDT", {SPAN})'),
    "no key": ("AccessDenied", None, f'keyless.fetch("AAPL", {SPAN}, provider="alpaca")'),
    "a refused key": ("AccessDenied", None, f'mistaken.fetch("AAPL", {SPAN}, provider="alpaca")'),
    "a refusal": ("ProviderRefused", REFUSED, f'fetcher.fetch("BTC/USDT", {SPAN})'),
    "a page instead of JSON": ("ReplyError", HTML, "fetcher.symbols()"),
    "an incomplete range": ("IncompleteData", HTML, f'fetcher.fetch("BTC/USDT", {SPAN})'),
    "an incomplete audit": ("IncompleteData", DOWN, f'fetcher.audit("BTC/USDT", {SPAN})'),
    "nothing stored": ("IncompleteData", None, f'fetcher.fetch("BTC/USDT", {SPAN}, source="cache")'),
    "several failures": ("FetchManyError", DOWN, f'fetcher.fetch_many(["BTC/USDT", "ETH/USDT", "A/B", "C/D"], {SPAN})'),
    "a bad file": ("BadFile", None, 'candle_fetcher.read_csv("BTCUSDT_1h_bad.csv")'),
    "a bad file, imported": ("BadFile", None, 'fetcher.cache.import_file("BTCUSDT-1h-2024-01.zip")'),
    "a missing extra": (
        "MissingExtra",
        None,
        'without_calendars(); fetcher.gaps("AAPL", "1h", "2024-01-02", "2024-01-03", provider="alpaca")',
    ),
    "a closed fetcher": ("CandleFetcherError", None, "fetcher.close(); fetcher.symbols()"),
    "frames that are none": ("InputError", None, 'candle_fetcher.combine({"a": 5})'),
    "no such file": ("FileNotFoundError", None, 'candle_fetcher.read_csv("not-there.csv")'),
    "no such folder": ("NotADirectoryError", None, f'fetcher.export("BTC/USDT", {SPAN}, path="/dev/null/no/x.csv")'),
    "Ctrl-C": ("KeyboardInterrupt", faults.hang(30), f'press_ctrl_c(); fetcher.fetch("BTC/USDT", {SPAN})'),
    "Ctrl-C, export": ("KeyboardInterrupt", faults.hang(30), f'press_ctrl_c(); fetcher.export("BTC/USDT", {SPAN})'),
}


def hide_calendars() -> None:
    """Let the package exchange_calendars be missing, and forget what an earlier test read with it."""
    sys.modules.update(exchange_calendars=None)  # type: ignore[arg-type]
    sessions._sessions.cache_clear()


def nowhere_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def press_ctrl_c() -> None:
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()


def print_end(script: str, names: dict[str, Any], path: Path) -> None:
    """Run the script, and print what the interpreter prints where it ends with an error."""
    path.write_text(f"import candle_fetcher\n\n{script}\n", encoding="utf-8")
    linecache.checkcache()
    try:
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), {**names, "candle_fetcher": candle_fetcher})
    except BaseException as error:  # noqa: BLE001 - as at the end of a program
        trace = error.__traceback__.tb_next if error.__traceback__ else None
        sys.__excepthook__(type(error), error.with_traceback(trace), trace)


def print_all(folder: Path) -> None:
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.simplefilter("ignore")
    Path("BTCUSDT_1h_bad.csv").write_text("timestamp,open,high,low,close,volume\n2024-01-01T00:00:00Z,1,2\n")
    Path("BTCUSDT-1h-2024-01.zip").write_bytes(b"PK\3\4nonsense")
    texts = {}
    with World(folder) as world:
        dead = roots_at(nowhere_url(), world.exchange.base_urls)
        keys = {"alpaca": {"key_id": "PK0123456789", "secret_key": "0123456789"}}
        for number, (name, (_, fault, script)) in enumerate(CASES.items()):
            common = {"max_retries": 0, "cache_dir": folder / f"{number}"}
            names = {
                "fetcher": world.fetcher(**common, api_keys=world.exchange.api_keys),
                "nowhere": world.fetcher(**{**common, "base_urls": dead}),
                "mistaken": world.fetcher(**common, api_keys=keys),
                "keyless": world.fetcher(**common),
                "CandleFetcher": CandleFetcher,
                "press_ctrl_c": press_ctrl_c,
                "without_calendars": hide_calendars,
            }
            with contextlib.ExitStack() as stack:
                if fault is not None:
                    stack.callback(world.exchange.fail(fault, times=None).stop)
                file = stack.enter_context((folder / "printed").open("w+", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stderr(file))
                print_end(script, names, folder / "script.py")
                file.seek(0)
                texts[name] = file.read()
    print(json.dumps(texts))  # noqa: T201


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("tracebacks")
    done = forks.run(lambda: print_all(folder), timeout_s=120)
    assert done.code == 0, done.err.decode()
    texts: dict[str, str] = json.loads(done.out)
    return texts


@pytest.mark.slow(every=3)
@forks.needs_fork
@pytest.mark.parametrize("name", CASES)
def test_an_error_fits_on_one_screen(printed: dict[str, str], name: str) -> None:
    kind, text = CASES[name][0], printed[name]
    lines = text.splitlines()
    assert len(lines) <= SCREEN, text
    assert lines[0] == "Traceback (most recent call last):"
    assert sum("Traceback" in line or "exception" in line for line in lines) == 1, text
    files = re.findall(r'^  File "(.*)", line', text, re.M)
    assert [Path(file).name for file in files] == ["script.py", "tracebacks.py"]
    assert CASES[name][2].splitlines()[-1] in text
    assert re.match(rf"(candle_fetcher\.core\.errors\.)?{kind}\b", lines[-1]), text


@forks.needs_fork
@pytest.mark.parametrize("name", [name for name in CASES if hasattr(errors, CASES[name][0])])
def test_a_message_says_nothing_twice(printed: dict[str, str], name: str) -> None:
    message = printed[name].splitlines()[-1].partition(": ")[2]
    words = message.split()
    runs = [" ".join(words[at : at + 4]) for at in range(len(words) - 3)]
    assert len(runs) == len(set(runs)), message
    assert len(re.findall(r"[a-z)'][.?!](?= [A-Z])", message)) < 3, message


@forks.needs_fork
def test_each_call_names_the_symbols_that_are_near(printed: dict[str, str]) -> None:
    said = {name: text.splitlines()[-1] for name, text in printed.items() if CASES[name][0] == "UnknownSymbol"}
    assert len(said) >= 5
    for message in said.values():
        assert re.search(r"binance(-um)? does not know the symbol 'BTC/UDST'; did you mean BTC/USDT\?$", message)


def test_every_class_that_is_raised_is_among_them() -> None:
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    warned = {name for name in kinds if issubclass(getattr(errors, name), Warning)}
    # A WorkerError is one of the errors of a FetchManyError; tests/test_hardware.py has a process of little memory.
    raised = {kind for kind, _, _ in CASES.values()}
    assert kinds - warned - raised == {
        "SourceError",
        "CacheError",
        "WorkerError",
        "OutOfMemory",
        "FetchManyOutOfMemory",
    }


@pytest.mark.slow
def test_a_program_of_its_own_ends_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    settings = f'base_urls={{"binance": "{nowhere_url()}"}}, use_cache=False, max_retries=0, progress=False'
    script.write_text(
        f"from candle_fetcher import CandleFetcher\n\n"
        f"with CandleFetcher({settings}) as fetcher:\n"
        f"    fetcher.fetch('BTC/USDT', '1h', '2024-01-01', '2024-01-02')\n"
    )
    environment = {**os.environ, "PYTHONPATH": children.PATH}
    done = subprocess.run(
        [sys.executable, script], check=False, capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) <= SCREEN
    assert done.stderr.splitlines()[-1].startswith("candle_fetcher.core.errors.IncompleteData: ")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("IPython") is None, reason="IPython is not installed")
def test_a_notebook_shows_the_cell_and_the_message(tmp_path: Path) -> None:
    script = f"""
        import os
        os.environ["IPYTHONDIR"] = {str(tmp_path / "ipython")!r}
        from IPython.core.interactiveshell import InteractiveShell
        from candle_fetcher import CandleFetcher
        shell = InteractiveShell.instance(colors="NoColor")
        shell.user_ns["fetcher"] = CandleFetcher(
            base_urls={{"binance": "{nowhere_url()}"}}, use_cache=False, max_retries=0, progress=False
        )
        shell.run_cell("frame = fetcher.fetch('BTC/USDT', '1h', '2024-01-01', '2024-01-02')")
    """
    program = children.start(script, cwd=tmp_path, has_warnings=True, is_new=True)
    out, err = program.communicate(timeout=300)
    lines = out.rstrip().splitlines()
    assert len(lines) <= SCREEN, out + err
    assert lines[-1].startswith("IncompleteData: "), out + err


# -- what the error came of ------------------------------------------------------------------------------------------


def caught_by(kind: type[BaseException], work: Callable[[], object]) -> Any:
    with pytest.raises(kind) as caught:
        work()
    return caught.value


def has_no_traceback(error: BaseException | None) -> bool:
    return error is not None and (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)


def test_the_cause_is_an_attribute_without_traceback(world: World) -> None:
    fetcher = world.fetcher(max_retries=0)
    error = caught_by(UnknownSymbol, lambda: fetcher.fetch("BTC/UDST", *DAY))
    assert isinstance(error.cause, UnknownSymbol)
    assert isinstance(error.cause.cause, ProviderRefused) or error.cause.cause is None
    assert (error.__cause__, error.__context__) == (None, None)
    assert has_no_traceback(error.cause)
    world.exchange.fail(DOWN, times=None)
    incomplete = caught_by(IncompleteData, lambda: fetcher.fetch("BTC/USDT", *DAY))
    assert incomplete.cause is incomplete.refusals[-1]
    assert all(map(has_no_traceback, incomplete.refusals))
    several = caught_by(FetchManyError, lambda: fetcher.fetch_many(["BTC/USDT", "ETH/USDT"], *DAY))
    for one in several.errors.values():
        assert has_no_traceback(one)
        assert has_no_traceback(one.cause)
        assert one.cause is one.refusals[-1]


def test_the_debug_log_has_every_traceback(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="candle_fetcher")
    world.exchange.fail(DOWN, times=None)
    fetcher = world.fetcher(max_retries=0)
    caught_by(IncompleteData, lambda: fetcher.fetch("BTC/USDT", *DAY))
    (record,) = [one for one in caplog.records if one.exc_text]
    assert (record.levelno, record.getMessage()) == (logging.DEBUG, "IncompleteData, and what it came of:")
    assert record.exc_text is not None
    assert record.exc_text.count("Traceback (most recent call last)") >= 2
    assert "direct cause" in record.exc_text
    assert "TransportError: Binance could not answer" in record.exc_text
    assert "in current_call" not in record.exc_text
    caplog.clear()
    caught_by(FetchManyError, lambda: fetcher.fetch_many(["BTC/USDT", "ETH/USDT"], *DAY))
    (record,) = [one for one in caplog.records if one.exc_text]
    assert record.exc_text is not None
    for symbol in ("BTC/USDT", "ETH/USDT"):
        assert f"\n{symbol}: " in record.exc_text
    assert record.exc_text.count("IncompleteData: ") >= 2


def test_nothing_is_formatted_unless_the_log_is_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def format_exception(*_: object) -> list[str]:
        raise AssertionError

    monkeypatch.setattr(traceback, "format_exception", format_exception)
    fetcher = world.fetcher(max_retries=0)
    with pytest.raises(UnknownSymbol):
        fetcher.fetch("BTC/UDST", *DAY)


def test_an_error_goes_to_another_process_with_its_cause(world: World) -> None:
    fetcher = world.fetcher(max_retries=0)
    error = caught_by(UnknownSymbol, lambda: fetcher.fetch("BTC/UDST", *DAY))
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), str(again.cause)) == (str(error), str(error.cause))
    error = InputError("it happened")
    error.cause = OSError(threading.Lock())  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(error)).cause is None


def test_what_the_caller_was_doing_is_still_its_context(world: World) -> None:
    fetcher, asked = world.fetcher(), KeyError("mine")

    def work() -> None:
        try:
            raise asked
        except KeyError:
            fetcher.fetch("BTC/USDT", "1x")

    assert caught_by(InputError, work).__context__ is asked


def test_a_fault_of_the_program_keeps_its_whole_traceback(world: World) -> None:
    faults_now: list[bool] = []

    def tell_time() -> float:
        if faults_now:
            raise TypeError("a fault") from ValueError("deep")
        return world.now_s

    fetcher = world.fetcher(clock=tell_time)
    faults_now.append(True)
    error = caught_by(TypeError, lambda: fetcher.fetch("BTC/USDT", *DAY))
    assert isinstance(error.__cause__, ValueError)
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert names[-1] == "tell_time"
    assert len(names) > 5


@pytest.mark.parametrize(
    ("error", "is_short"),
    [
        (OSError(2, "no such file", "a.csv"), True),
        (TimeoutError("of a signal handler"), False),
        (OSError(5, "x"), False),
    ],
)
def test_an_error_of_the_system_is_short_where_it_names_a_file(error: OSError, is_short: bool) -> None:
    @short_errors
    def read() -> None:
        inside()

    def inside() -> None:
        raise error

    frames = [frame.name for frame in traceback.extract_tb(caught_by(OSError, read).__traceback__)]
    assert frames[-1] == ("read" if is_short else "inside")


def test_a_second_failure_is_as_short_as_the_first(world: World) -> None:
    shared = InputError("it happened")

    @short_errors
    def fail() -> None:
        raise shared

    for _ in range(3):
        error = caught_by(InputError, fail)
        assert len(traceback.extract_tb(error.__traceback__)) == 2  # the test's line, and one of the package


def test_the_command_line_shows_causes_with_debug_alone(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.exchange.fail(DOWN, times=None)
    hosts = [word for name, url in world.exchange.base_urls.items() for word in ("--base-url", f"{name}={url}")]
    monkeypatch.setenv("CANDLE_FETCHER_MAX_RETRIES", "0")
    words = ["fetch", "BTC/USDT", "1h", "--start", DAY[1], "--end", DAY[2], *hosts, "--cache-dir", str(world.folder)]
    assert main(words) == 3
    plain = capsys.readouterr().err
    assert "Traceback" not in plain
    assert main([*words, "--debug"]) == 3
    debug = capsys.readouterr().err
    assert "direct cause" in debug
    assert debug.count("Traceback") >= 2
    assert main([*words, "--log-level", "debug"]) == 3
    assert "direct cause" in capsys.readouterr().err
    error = caught_by(IncompleteData, lambda: world.fetcher(max_retries=0).fetch("BTC/USDT", *DAY))
    assert error.__cause__ is None
