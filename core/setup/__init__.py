"""Makes and repairs the environment that the studio runs in, for ``launch.py``.

Everything here runs before anything is installed: standard library only (a test checks it).
"""
