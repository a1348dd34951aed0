"""Floor 5: series of candles that grow in a folder, and are whole at any moment.

    Vault  ->  update_series   what to ask for, what came back, which rows to write
                 ->  CandleFetcher   the public calls
                 ->  Files           one series in one format: state, write, read, verify, remove
           ->  VaultDocument   vault.json: format, columns, options, origins, series
           ->  SeriesLocks     one writer for each series, among threads and processes

A series' state file says what its files hold: for each file up to which byte, how many rows, and a checksum. It is the
only thing that is ever replaced, and by one rename. Bytes that no state file speaks of do not count: what a killed
writer, a full disk or a second writer leaves behind is cut off before the next rows are written.
"""

from __future__ import annotations

from candle_fetcher.vault.vault import Vault

__all__ = ["Vault"]
