"""Caches between processes: the user's folder, entries, blocks of constants, programs of saved models.

An entry is found only under everything that determines it (`entries.key_of`), so nothing is ever invalidated. A file
that is not as it was written is not used and is removed (`folder.Bad`, `folder.remove_bad`). Files of a kind that take
too much space go, those that were not used for longest first (`folder.prune`, `folder.touch`).
"""
