"""The command line: parses words, builds ports, calls one step, prints its result."""
