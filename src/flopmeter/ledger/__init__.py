"""The record: append-only files, one writer each, every line sealed to the one before.

`docs/spec/ledger-v0.1.md` fixes the bytes. Not here: what entries add up to (`account.py`).
"""
