"""The claim: what an account adds up to, signed, and checked again by someone else.

`docs/spec/predicate-v0.1.md` fixes the bytes. Not here: laws (`regimes`), sums (`account.py`).
"""
