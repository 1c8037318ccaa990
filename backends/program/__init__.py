"""Programs: steps, memory plan and constants of one binding of a graph's sizes."""
