"""One file a command: its flags, one call, what it prints."""
