"""Callbacks of training frameworks: their events in, meter calls out.

Each file is imported by who uses its framework, and nobody else. Not here: arithmetic, sensors, files.
"""
