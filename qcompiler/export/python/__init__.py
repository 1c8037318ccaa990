"""A graph as one Python script and one safetensors file, which run on numpy alone.

`script.py` writes the script, `bundle.py` gathers the definitions that it needs out of qcompiler's own sources, so the
script computes with the very references that the interpreter runs, and `runtime.py` is the part that every script
shares.
"""
