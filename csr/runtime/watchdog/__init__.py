"""Nobody waits for ever: ranks that tell each other where they are."""
