"""The ground a process stands on: errors, files, ranks, signals, progress; nothing of csr's own trade."""
