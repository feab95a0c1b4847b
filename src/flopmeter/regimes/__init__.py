"""Laws and policies with a compute threshold: one file of data each, and small named rules for what counts.

Not here: the account itself (`account`), and any judgement that is not about the number. No legal advice.
"""
