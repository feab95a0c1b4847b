"""Words and pictures of an account: no arithmetic of its own.

Not here: the account (`account.py`) and what it means (`reconciliation.py`, `regimes`).
"""
