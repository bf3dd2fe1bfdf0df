"""Measurements of the whole service against real engines; not part of what is installed."""
