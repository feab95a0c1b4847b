"""The same account as other tools would print it, and what lies between their figure and ours.

Not here: our own convention (`docs/spec/fm-1.md`), and what a formula is made of (`estimate/architecture.py`).
"""
