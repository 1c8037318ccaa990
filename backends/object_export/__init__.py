"""Object export: a graph as one relocatable object file with a C header, for machines without Python."""
