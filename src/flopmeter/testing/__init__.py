"""Fakes that ship: what others need to test their own code against ours, without a device or a key of value.

Not here: anything that a metered run uses.
"""
