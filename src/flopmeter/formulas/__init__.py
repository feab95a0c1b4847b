"""The cost book: what each operator costs, from shapes alone.

A multiply-add is two operations. `docs/spec/fm-1.md` is the normative list; one family per file here.
Not here: torch, tensors, how often a call ran.
"""
