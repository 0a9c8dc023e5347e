"""What a process settles before and while it imports torch: the garbage collector, threads."""
