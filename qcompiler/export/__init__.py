"""Graphs in forms that need nothing from here: ONNX, a numpy script, a torch module, text.

`forms.py` has the table of forms. Does not own object files (`backends/object_export`) or saved models (`artifact`).
"""
