"""What devices can do at most, from tables with sources; an unknown device has no peak.

Not here: what they did (`sensors`).
"""
