"""The control API: HTTP in front of `engine.node`."""

import os

# aiohttp's C parser answers 400 to the verb LIST. This must stand before the first import of aiohttp;
# connection.py makes sure of the pure parser also where something else imported it earlier.
os.environ.setdefault("AIOHTTP_NO_EXTENSIONS", "1")
