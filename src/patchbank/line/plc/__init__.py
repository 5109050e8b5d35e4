"""What a line tells a machine's control (PLC), and what it is told by it."""
