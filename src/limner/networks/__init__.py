"""Network architectures, one family a file."""
