"""What a run should cost, from numbers alone: no torch, no device, no model names.

Not here: what was counted (`account.py`), and how the two compare (`reconciliation.py`).
"""
