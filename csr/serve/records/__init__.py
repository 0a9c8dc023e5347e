"""The record of a session: what it holds, what it says in words, printed, and replayed on the same image."""
