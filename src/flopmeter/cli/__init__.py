"""The commands, one file each; `main.py` holds the table.

Not here: arithmetic, formats, keys. A command parses words, calls one function and prints what came back.
"""
