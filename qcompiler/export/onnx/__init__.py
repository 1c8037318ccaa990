"""A graph as an ONNX file.

`model.py` writes the file, `builder.py` makes nodes and names, and the other modules hold the float meaning of each op
in ONNX's ops. Codes are written between QuantizeLinear and DequantizeLinear, so every op is written once.
"""
