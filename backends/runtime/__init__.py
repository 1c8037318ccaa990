"""The runtime: executables, threads, the dispatcher, and pages of memory."""
