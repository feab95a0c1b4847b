"""The only room that touches private keys. One file per kind of key holder.

Not here: public keys and the check of signatures (`keys.py` next door), which never need this room.
"""
