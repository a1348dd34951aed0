"""The version, read by setup.py and written into every manifest."""

__version__ = "0.2.0"
