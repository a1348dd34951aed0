"""Candles in files: written for other programs, read back, and imported into the cache.

A new format of files has its rows read in `formats.py`, and its bytes written in `writing.py`.
"""
